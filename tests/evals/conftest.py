"""Adapters for the tiny base model, and words, made once per session."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from mosweep.core.paths import shipped

CAPITALIZATION = shipped("tasks") / "capitalization"


def load_module(path: Path) -> ModuleType:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, base: Path) -> list[Path]:
    """Three adapters with random matrices, big enough to change what the model says."""
    import torch
    from safetensors.torch import save_file

    folders = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("adapter")
        generator = torch.Generator().manual_seed(seed)
        name = "base_model.model.model.layers.1.self_attn"
        shapes = {
            f"{name}.q_proj.lora_A": (2, 64),
            f"{name}.q_proj.lora_B": (64, 2),
            f"{name}.v_proj.lora_A": (2, 64),
        }
        shapes[f"{name}.v_proj.lora_B"] = (32, 2)
        tensors = {
            f"{key}.weight": torch.randn(shape, generator=generator) * 0.5
            for key, shape in shapes.items()
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "r": 2,
            "lora_alpha": 4,
            "peft_type": "LORA",
            "base_model_name_or_path": str(base),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shipped task's small data set."""
    folder = tmp_path_factory.mktemp("words")
    load_module(CAPITALIZATION / "data.py").build("words_small", folder)
    return folder
