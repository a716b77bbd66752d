"""LoRA adapters in PEFT's layout: the change to each weight, and merging with the base model.

An adapter with matrices A (r × in) and B (out × r) adds ``alpha/r · B·A`` to a weight W (out × in)
(Hu et al., 2021).

This file requires torch and safetensors, but not peft. It must not import mosweep, because it also
runs in the interpreter that trains, which may not have mosweep.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["deltas", "merge", "read_config"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


def read_config(adapter: Path) -> dict[str, Any]:
    """The adapter's ``adapter_config.json``. Raises ``ValueError`` unless it is plain LoRA."""
    config: dict[str, Any] = json.loads((adapter / CONFIG).read_text())
    unknown = [
        name
        for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if config.get(name)
    ]
    if config.get("peft_type", "LORA") != "LORA" or unknown:
        raise ValueError(
            f"{adapter} is not a plain LoRA adapter ({config.get('peft_type')}, "
            f"{', '.join(unknown) or 'no options'})"
        )
    return config


def deltas(adapter: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Pairs of a module name and the float32 matrix (out × in) to add to its weight."""
    from safetensors import safe_open

    config = read_config(adapter)
    scale = config["lora_alpha"] / config["r"]
    with safe_open(adapter / WEIGHTS, "pt") as file:
        names = sorted(file.keys())
        for name in names:
            if not name.endswith((_A, _B)) or not name.startswith(_PREFIX):
                raise ValueError(f"{adapter} has {name}, which is not a LoRA matrix")
        for name in names:
            if name.endswith(_A):
                a, b = (
                    file.get_tensor(name).float(),
                    file.get_tensor(name.removesuffix(_A) + _B).float(),
                )
                yield name.removeprefix(_PREFIX).removesuffix(_A), scale * (b @ a)


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write the base model with the adapter added to ``out``.

    Files, shards and dtypes are those of the base. Raises ``ValueError`` if the adapter changes
    weights that the base does not have.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    out.mkdir(parents=True)
    index = base / "model.safetensors.index.json"
    shards = (
        sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if index.exists()
        else ["model.safetensors"]
    )
    added = dict(deltas(adapter))
    for shard in shards:
        with safe_open(base / shard, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        for name, weight in tensors.items():
            delta = added.pop(name.removesuffix(".weight"), None)
            if delta is not None:
                tensors[name] = (weight.float() + delta).to(weight.dtype).contiguous()
        save_file(tensors, out / shard, metadata={"format": "pt"})
    if added:
        raise ValueError(
            f"the adapter changes weights that {base} does not have: {', '.join(sorted(added)[:3])}"
        )
    for file_ in base.iterdir():
        if file_.is_file() and file_.suffix not in (".safetensors", ".bin", ".pt", ".pth", ".gguf"):
            shutil.copyfile(file_, out / file_.name)
