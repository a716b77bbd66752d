"""torchtune's native configuration: strict changes, and the base model's dimensions."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mosweep.backends.torchtune.config import (
    check,
    load_recipe,
    merge,
    set_path,
    steps_of,
)
from mosweep.backends.torchtune.run_config import architecture_of, complete
from mosweep.core.errors import ConfigError, UserError
from mosweep.core.paths import shipped

RECIPES = sorted((shipped("recipes") / "torchtune").glob("*.yaml"))
TINY = load_recipe(shipped("recipes") / "torchtune" / "tiny.yaml")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 266,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def model(folder: Path, config: dict[str, Any], *files: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).touch()
    return folder


def test_one_setting_changes_and_the_recipe_stays() -> None:
    before = TINY["optimizer"]["lr"]
    changed = set_path(TINY, "optimizer.lr", 1)
    assert changed["optimizer"]["lr"] == 1
    assert TINY["optimizer"]["lr"] == before != 1
    assert changed["model"] is TINY["model"]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("optimizer.lrr", 1, "did you mean optimizer.lr"),
        ("epoch", 1, "did you mean epochs"),
        ("model.use_dora", True, "no such setting"),
        ("epochs.first", 1, "torchtune.epochs is a setting, not a section"),
        (
            "optimizer",
            3,
            "is a section; set one of torchtune.optimizer._component_, torchtune.optimizer.lr",
        ),
        ("optimizer.lr", "fast", "expected a number"),
        ("epochs", 1.5, "expected a whole number"),
        ("epochs", True, "expected a whole number"),
        ("shuffle", 1, "expected true or false"),
        ("model.lora_attn_modules", "q_proj", "expected a list"),
        ("dtype", "fp16", "valid: auto"),
        ("output_dir", "x", "mosweep decides where files are stored"),
        ("checkpointer.checkpoint_dir", "x", "follows from the base model"),
        ("save_adapter_weights_only", False, "corrupts"),
        ("dataset.data_files", "x", "data set of the trial"),
        ("tokenizer.path", "x", "follows from the base model"),
        ("model.embed_dim", 8, "follows from the base model"),
        ("metric_logger.log_dir", "x", "loss of every step"),
    ],
)
def test_what_cannot_be_set_is_refused_with_its_name(
    path: str, value: object, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        set_path(TINY, path, value)
    assert caught.value.key == f"torchtune.{path}"


def test_null_and_numbers_of_the_other_kind_are_accepted() -> None:
    assert set_path(TINY, "clip_grad_norm", None)["clip_grad_norm"] is None
    assert set_path(TINY, "max_steps_per_epoch", 3)["max_steps_per_epoch"] == 3
    assert set_path(TINY, "model.lora_alpha", 32)["model"]["lora_alpha"] == 32


def test_layers_nest_and_later_ones_win() -> None:
    config = merge(
        TINY, {"optimizer": {"lr": 0.5, "weight_decay": 0.1}, "epochs": 2}, {"optimizer.lr": 0.25}
    )
    assert (config["optimizer"]["lr"], config["optimizer"]["weight_decay"], config["epochs"]) == (
        0.25,
        0.1,
        2,
    )
    assert config["optimizer"]["eps"] == 1e-8
    with pytest.raises(ConfigError, match=r"optimizer\.speed"):
        merge(TINY, {"optimizer": {"speed": 1}})


def test_another_component_replaces_its_section() -> None:
    config = merge(TINY, {"optimizer": {"_component_": "torch.optim.SGD", "lr": 0.1}})
    assert config["optimizer"] == {"_component_": "torch.optim.SGD", "lr": 0.1}
    assert set_path(config, "optimizer.lr", 0.2)["optimizer"]["lr"] == 0.2


def test_numbers_are_read_as_torchtune_reads_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: {_component_: a.b}\nlr: 3e-4\nother: 1.0e-3\nname: e5\nwhole: 12\n"
    )
    assert load_recipe(tmp_path / "r.yaml") == {
        "model": {"_component_": "a.b"},
        "lr": 3e-4,
        "other": 1e-3,
        "name": "e5",
        "whole": 12,
    }
    (tmp_path / "r.yaml").write_text("a: b")
    with pytest.raises(UserError, match="not a torchtune recipe"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("scaling", ["transformers 4", "transformers 5"])
def test_dimensions_come_from_the_base_model(tmp_path: Path, scaling: str) -> None:
    rope = (
        {"rope_scaling": SCALING}
        if scaling == "transformers 4"
        else {"rope_parameters": {"rope_theta": 500000.0, **SCALING}}
    )
    found = architecture_of(model(tmp_path, {**LLAMA, **rope}), max_seq_len=128)
    assert found == {
        "_component_": "torchtune.models.llama3_2.lora_llama3_2",
        **{
            "vocab_size": 266,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "embed_dim": 64,
            "intermediate_dim": 128,
        },
        **{
            "max_seq_len": 128,
            "norm_eps": 1e-5,
            "rope_base": 500000,
            "scale_factor": 32.0,
            "tie_word_embeddings": True,
        },
    }
    assert architecture_of(model(tmp_path, LLAMA))["scale_factor"] == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "gpt2"}, "model_type=gpt2"),
        ({"head_dim": 32}, "head_dim=32"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {**SCALING, "low_freq_factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
    ],
)
def test_a_model_that_torchtune_would_build_differently_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        architecture_of(model(tmp_path, {**LLAMA, **change}))


def test_complete_fills_in_what_belongs_to_the_run(tmp_path: Path) -> None:
    index = {
        "weight_map": {
            "a": "model-00002-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
        }
    }
    base = model(tmp_path / "base", LLAMA, "tokenizer.model", "tokenizer.json")
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    config = complete(TINY, base=base, data=tmp_path / "d.jsonl", output=tmp_path / "out")
    assert config["checkpointer"]["checkpoint_files"] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert config["checkpointer"]["model_type"] == "LLAMA3_2"
    assert config["model"]["embed_dim"] == 64
    assert config["model"]["lora_rank"] == 8
    assert config["model"]["max_seq_len"] == 128
    assert config["tokenizer"]["special_tokens_path"] == str(base / "tokenizer.json")
    assert config["save_adapter_weights_only"] is True
    assert (config["device"], config["dtype"]) == ("auto", "auto")
    assert (
        complete(TINY, base=base, data=tmp_path, output=tmp_path, device="cpu")["device"] == "cpu"
    )
    (base / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer\.model or original/tokenizer\.model"):
        complete(TINY, base=base, data=tmp_path, output=tmp_path)


def test_steps_are_counted_as_the_recipe_takes_them() -> None:
    config = {**TINY, "batch_size": 4, "gradient_accumulation_steps": 2, "epochs": 3}
    assert steps_of(config, 39) == 3 * 4
    assert steps_of({**config, "max_steps_per_epoch": 1}, 39) == 3
    check(config, 8)
    with pytest.raises(
        ConfigError, match="the data set is too small for one step: a step needs 8 samples"
    ):
        check(config, 7)


@pytest.mark.parametrize(
    ("builder", "files"),
    [
        ("mistral.mistral_tokenizer", ["tokenizer.model"]),
        ("llama2.llama2_tokenizer", ["tokenizer.model"]),
        ("gemma.gemma_tokenizer", ["tokenizer.model"]),
        ("phi3.phi3_mini_tokenizer", ["tokenizer.model"]),
        ("llama3.llama3_tokenizer", ["tokenizer.model", "tokenizer.json"]),
        ("qwen2.qwen2_tokenizer", ["vocab.json", "merges.txt"]),
        ("qwen2_5.qwen2_5_tokenizer", ["vocab.json", "merges.txt"]),
        ("phi4.phi4_tokenizer", ["vocab.json", "merges.txt"]),
    ],
)
def test_a_tokenizer_is_given_what_its_builder_takes(
    tmp_path: Path, builder: str, files: list[str]
) -> None:
    base = model(tmp_path / "base", LLAMA, "model.safetensors", *files)
    component = f"torchtune.models.{builder}"
    recipe = {**TINY, "tokenizer": {"_component_": component, "max_seq_len": 64}}
    made = complete(recipe, base=base, data=tmp_path, output=tmp_path)["tokenizer"]
    assert {made.pop("_component_"), made.pop("max_seq_len")} == {component, 64}
    assert list(made.values()) == [str(base / name) for name in files]
    module, _, name = component.rpartition(".")
    build = getattr(importlib.import_module(module), name)
    assert made.keys() <= inspect.signature(build).parameters.keys()


VALIDATE = """
import sys
from omegaconf import OmegaConf
from torchtune.config import validate
from torchtune.config._utils import _get_component_from_path
for path in sys.argv[1:]:
    config = OmegaConf.load(path)
    validate(config)  # binds every section to its component's signature
    sections = [s for s in config.values() if OmegaConf.is_dict(s)]
    assert all(callable(_get_component_from_path(s._component_)) for s in sections)
    print("sections", len(sections))
"""


@pytest.mark.real
def test_torchtune_accepts_the_shipped_recipes(tmp_path: Path) -> None:
    files = ("model.safetensors", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
    completed = []
    for path in RECIPES:
        recipe = load_recipe(path)
        kind = "qwen2" if recipe["checkpointer"]["model_type"] == "QWEN2" else "llama"
        base = model(tmp_path / path.stem, {**LLAMA, "model_type": kind}, *files)
        config = complete(recipe, base=base, data=tmp_path / "d.jsonl", output=tmp_path / "out")
        completed.append(tmp_path / path.name)
        completed[-1].write_text(json.dumps(config))
    command = [sys.executable, "-c", VALIDATE, *map(str, completed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["sections 8"] * 4


@pytest.mark.real
def test_the_shipped_recipes_have_every_key_of_torchtunes_own() -> None:
    from importlib.metadata import distribution

    folder = Path(str(distribution("torchtune").locate_file("recipes/configs")))
    stock = {
        "llama3_2_1b": "llama3_2/1B",
        "llama3_1_8b": "llama3_1/8B",
        "qwen2_5_0_5b": "qwen2_5/0.5B",
    }
    for path in RECIPES:
        if path.stem in stock:
            theirs = load_recipe(folder / f"{stock[path.stem]}_lora_single_device.yaml")
            filled_in = {
                "output_dir",
                "resume_from_checkpoint",
                "save_adapter_weights_only",
                "metric_logger",
                "log_every_n_steps",
                "profiler",
            }
            assert theirs.keys() - filled_in <= load_recipe(path).keys()
            assert theirs["model"]["_component_"] == load_recipe(path)["model"]["_component_"]
