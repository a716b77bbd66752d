"""Run one torchtune recipe and package what it leaves. A script for the interpreter that trains, which need not have mosweep.

``python torchtune_child.py FOLDER`` reads ``FOLDER/run/spec.json`` (recipe, native config, base, adapter files wanted), runs
torchtune's own recipe unchanged, and leaves ``adapter/``, perhaps ``merged/``, ``losses.json`` and ``run/result.json``. Its exit
status tells the truth: a run whose loss is not finite, or that took no step, or left no adapter, has failed.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import os
import re
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

LOSS = re.compile(r"^Step (\d+) \|.*?\bloss:(\S+)")
SITES = ("q_proj", "k_proj")


def read_losses(folder: Path) -> list[list[float]]:
    """``[[step, loss], …]`` from the files that torchtune's DiskLogger wrote into ``folder``, by step."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob("log_*.txt")):
        for line in path.read_text().splitlines():
            if match := LOSS.match(line):
                found[int(match[1])] = float(match[2])
    return [[step, found[step]] for step in sorted(found)]


def check_losses(losses: list[list[float]]) -> None:
    """``RuntimeError`` if the loss says that training failed."""
    if not losses:
        raise RuntimeError("training took no step")
    for step, loss in losses:
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss became {loss} at step {step:g}: training diverged (is the learning rate too high?)")


def package_adapter(epoch: Path, out: Path, base: Path) -> None:
    """The adapter that torchtune left in ``epoch``, in PEFT's layout and nothing else, in ``out``."""
    import torch
    from safetensors.torch import load_file, save_file

    if not (epoch / "adapter_model.safetensors").exists():
        raise RuntimeError("training left no adapter")
    tensors = load_file(epoch / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RuntimeError(f"training diverged: {name} is not finite")
    model = json.loads((base / "config.json").read_text())
    if model.get("model_type") == "qwen2":
        # torchtune reorders the rows of B for q and k as Llama's rotary embedding needs it, for every family; Qwen2's does not.
        heads = {"q_proj": model["num_attention_heads"], "k_proj": model["num_key_value_heads"]}
        for name in tensors:
            site = name.split(".")[-3]
            if site in SITES and name.endswith("lora_B.weight"):
                tensors[name] = _undo_rotary_order(tensors[name], heads[site])
    out.mkdir()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((epoch / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": str(base), "task_type": "CAUSAL_LM", "bias": "none"}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _undo_rotary_order(matrix: Any, heads: int) -> Any:
    """``matrix``: (heads · head_dim) × r, with the pairs of each head's dimensions split into halves; back to pairs in place."""
    rows, rank = matrix.shape
    return matrix.view(heads, 2, rows // heads // 2, rank).transpose(1, 2).reshape(rows, rank).contiguous()


def resolve_auto(config: dict[str, Any]) -> dict[str, Any]:
    """``device: auto`` and ``dtype: auto`` as this machine has it."""
    import torch

    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config["dtype"]
    if dtype == "auto":
        dtype = "bf16" if str(device).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    return {**config, "device": device, "dtype": dtype}


def watch(lifeline: int) -> None:
    """End this process and all it started when the other end of the pipe ``lifeline`` is closed: who wanted the result is dead."""

    def listen() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()


def run_recipe(recipe: str, config: Path) -> None:
    """``tune run RECIPE --config CONFIG`` in this process."""
    sys.argv = ["tune", "run", recipe, "--config", str(config)]
    try:
        runpy.run_module("torchtune._cli.tune", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


def main(folder: Path) -> None:
    """Train, check, package."""
    spec = json.loads((folder / "run" / "spec.json").read_text())
    if spec["lifeline"] is not None:
        watch(spec["lifeline"])
    base, work, native = Path(spec["base"]), folder / "run" / "work", folder / "torchtune.yaml"
    config = resolve_auto(spec["config"])
    import yaml  # torchtune needs it too

    native.write_text(yaml.safe_dump(config, sort_keys=False))
    started = time.perf_counter()
    run_recipe(spec["recipe"], native)
    seconds = time.perf_counter() - started
    losses = read_losses(work / "logs")
    check_losses(losses)
    (folder / "losses.json").write_text(json.dumps(losses) + "\n")
    epochs = sorted(work.glob("epoch_*"), key=lambda path: int(path.name.removeprefix("epoch_")))
    if not epochs:
        raise RuntimeError("training left no checkpoint")
    package_adapter(epochs[-1], folder / "adapter", base)
    if spec["merged"]:
        _lora(spec["lora"]).merge(base, folder / "adapter", folder / "merged")
    shutil.rmtree(work)  # torchtune's own folders mix files that no loader may meet together
    result = {"steps": len(losses), "final_loss": losses[-1][1], "train_seconds": round(seconds, 3)}
    result |= {"device": config["device"], "dtype": config["dtype"]}
    (folder / "run" / "result.json").write_text(json.dumps(result) + "\n")


def _lora(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mosweep_lora", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # importing torchtune makes so many objects that looking through them takes a second
    sys.path.pop(0)  # this file's folder: its torchtune.py would hide the library
    main(Path(sys.argv[1]))
