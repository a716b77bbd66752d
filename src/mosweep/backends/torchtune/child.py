"""Run one torchtune recipe and package its results.

This script runs in the interpreter that trains, which may not have mosweep. It must not import
mosweep.

``python child.py FOLDER`` reads ``FOLDER/run/spec.json`` (recipe, native config, base, processes
and so on) and runs torchtune's own recipe. It resumes from the last checkpoint of an earlier
attempt if there is one. It writes ``adapter/``, ``losses.json``, ``run/result.json`` and,
optionally, ``merged/``. It fails if a loss is not finite, if no step was taken, or if the recipe
saved no adapter.

With one process, this process runs the recipe. Otherwise ``processes`` starts this script in the
roles ``rank`` and ``agent``. ``patch_torchtune`` lists the changes to torchtune and their reasons.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import os
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

SITES = ("q_proj", "k_proj")


def _load(path: str | Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mosweep_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from mosweep.backends.torchtune import processes, resume, samples
else:
    processes = _load(Path(__file__).with_name("processes.py"))
    resume = _load(Path(__file__).with_name("resume.py"))
    samples = _load(Path(__file__).with_name("samples.py"))


def check_losses(losses: list[list[float]], lengths: Mapping[str, int] | None = None) -> None:
    """Raise ``RuntimeError`` if the losses show that training failed.

    ``lengths`` is the result of ``samples.check_lengths``.
    """
    if not losses:
        raise RuntimeError("training took no step")
    for step, loss in losses:
        if not math.isfinite(loss):
            cause = "training diverged (is the learning rate too high?)"
            if lengths and lengths["empty"]:
                cause = f"a batch may have had nothing to learn: {samples.describe(lengths)}"
            raise RuntimeError(f"the loss became {loss} at step {step:g}: {cause}")


def package_adapter(epoch: Path, out: Path, base: Path) -> None:
    """Write the adapter that torchtune saved in ``epoch`` to ``out``, in PEFT's layout."""
    import torch
    from safetensors.torch import load_file, save_file

    if not (epoch / "adapter_model.safetensors").exists():
        raise RuntimeError("torchtune saved no adapter")
    tensors = load_file(epoch / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RuntimeError(f"training diverged: {name} is not finite")
    model = json.loads((base / "config.json").read_text())
    if model.get("model_type") == "qwen2":
        # For every family, torchtune reorders the rows of B for q and k as Llama's rotary
        # embedding requires. Qwen2's does not.
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
    """``matrix`` with the dimensions of each head regrouped from halves to adjacent pairs.

    ``matrix`` is (heads · head_dim) × rank.
    """
    rows, rank = matrix.shape
    return (
        matrix.view(heads, 2, rows // heads // 2, rank)
        .transpose(1, 2)
        .reshape(rows, rank)
        .contiguous()
    )


def resolve_auto(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with ``auto`` for device and dtype resolved for this machine."""
    import torch

    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config["dtype"]
    if dtype == "auto":
        dtype = (
            "bf16" if str(device).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
        )
    return {**config, "device": device, "dtype": dtype}


def single_process(spec: Mapping[str, Any]) -> bool:
    """Whether the recipe runs in this process only."""
    return bool(spec["processes"] * spec["nodes"] == 1)


def in_a_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a short-lived process, because GPUs stay in use until a process ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def end_after_first_epoch() -> None:
    """Make the recipe exit after it has saved its first epoch.

    It does not save the optimizer after its last epoch.
    """
    from torch.utils.data.distributed import DistributedSampler

    begin = DistributedSampler.set_epoch

    def begin_or_end(self: DistributedSampler[Any], epoch: int) -> None:
        if epoch > 0:
            sys.exit(0)
        begin(self, epoch)

    DistributedSampler.set_epoch = begin_or_end  # type: ignore[method-assign]


def scheduler_of(rates: list[float], optimizer: Any) -> Any:
    """A scheduler that replaces the optimizer's learning rate with these rates, one per step."""
    from torch.optim.lr_scheduler import LambdaLR

    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1.0
    return LambdaLR(optimizer, lambda done: rates[min(done, len(rates) - 1)])


def patch_torchtune(config: Mapping[str, Any], spec: Mapping[str, Any], work: Path) -> None:
    """Patch torchtune 0.6.1 in this process, without changes to its files.

    - Recipe states are written atomically, with everything that a resumed run requires.
    - A part of a run uses its own learning rates and ends after one epoch.
    - A resumed run continues the learning rate schedule and the random numbers.
    - The distributed recipe also runs on CPUs.
    - Answers with weight 0 are not learned.
    """
    import torch
    import torchtune.config
    import torchtune.training

    resume.save_resumable_states(work, spec["recipe"])
    samples.heed_weights()
    several, part = "RANK" in os.environ, spec["part"]
    if part:
        instantiate_native = torchtune.config.instantiate

        def instantiate_part(node: Any, *args: Any, **options: Any) -> Any:
            if "last_epoch" not in options:
                return instantiate_native(node, *args, **options)
            if part["start"] and not several:
                resume.restore_random(work)
            return scheduler_of(part["rates"], args[0])

        torchtune.config.instantiate = instantiate_part
        end_after_first_epoch()
    elif steps := len(resume.losses_before(work)):
        # A resumed single-device recipe restarts the learning rate schedule, because its
        # global_step stays 0 unless max_steps_per_epoch is set. No recipe saves the state of the
        # random numbers.
        instantiate = torchtune.config.instantiate

        def instantiate_at_step(node: Any, *args: Any, **options: Any) -> Any:
            if "last_epoch" in options:
                options["last_epoch"] = steps - 1
                if not several:
                    resume.restore_random(work)
            return instantiate(node, *args, **options)

        torchtune.config.instantiate = instantiate_at_step
    if config["device"] == "cpu" and several:
        # lora_finetune_distributed always uses NCCL, reads memory statistics and empties the GPU's
        # cache. None of these works on a CPU.
        init = torch.distributed.init_process_group
        torch.distributed.init_process_group = lambda backend=None, **options: init(
            "gloo", **options
        )
        torchtune.training.get_memory_stats = lambda device, reset_stats=True: {}
        torchtune.training.log_memory_stats = lambda stats, message="": None
        torchtune.training.cleanup_before_training = gc.collect


def run_recipe(recipe: str, config: Path) -> None:
    """``tune run RECIPE --config CONFIG`` in this process."""
    sys.argv = ["tune", "run", recipe, "--config", str(config)]
    try:
        runpy.run_module("torchtune._cli.tune", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


def train(folder: Path, spec: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Run the recipe in this process, or in several if ``spec`` says so."""
    if single_process(spec):
        patch_torchtune(config, spec, folder / "run" / "work")
        samples.check_lengths(folder, config)
        run_recipe(spec["recipe"], folder / "torchtune.yaml")
    elif spec["nodes"] == 1:
        processes.torchrun(folder, spec, ["--standalone"])
    else:
        processes.srun(folder, spec)


def main(folder: Path) -> None:
    """Train and package the adapter, or copy the adapter of an earlier attempt."""
    spec = json.loads((folder / "run" / "spec.json").read_text())
    if spec["lifeline"] is not None:
        processes.watch(spec["lifeline"])
    config = (
        resolve_auto(spec["config"])
        if single_process(spec)
        else in_a_fork(resolve_auto, spec["config"])
    )
    earlier = list(resume.earlier(spec))
    losses = None if spec["part"] else resume.copy_trained(earlier, folder)
    if losses is None:
        losses, resumed_at, seconds = train_and_package(folder, spec, config, earlier)
    else:
        resumed_at, seconds = len(losses), 0.0
        write_native(folder, config)
    (folder / "losses.json").write_text(json.dumps(losses) + "\n")
    if spec["merged"]:
        _load(spec["lora"]).merge(Path(spec["base"]), folder / "adapter", folder / "merged")
    # Loaders fail on torchtune's folders, which mix files of several formats.
    shutil.rmtree(folder / "run" / "work", ignore_errors=True)
    lengths = samples.lengths_of(folder)
    result = {
        "steps": len(losses),
        "final_loss": losses[-1][1],
        "train_seconds": round(seconds, 3),
        "resumed_at_step": resumed_at,
        "device": config["device"],
        "dtype": config["dtype"],
        "world_size": spec["processes"] * spec["nodes"],
        "warning": samples.describe(lengths) if lengths and lengths["cut"] else None,
    }
    (folder / "run" / "result.json").write_text(json.dumps(result) + "\n")
    for other in earlier:
        if not (other / "run" / "result.json").exists():
            for name in ("run/work", "merged"):
                shutil.rmtree(other / name, ignore_errors=True)


def train_and_package(
    folder: Path, spec: Mapping[str, Any], config: dict[str, Any], earlier: list[Path]
) -> tuple[resume.Losses, int, float]:
    """Train, or resume training, and write the adapter.

    Returns the losses, the step that training resumed from, and the seconds that the recipe took.
    """
    work, part = folder / "run" / "work", spec["part"]
    if part:
        resumed_at, resumes = 0, bool(part["start"])
        if resumes:
            steps = config["max_steps_per_epoch"]
            resume.begin_part(Path(part["start"]), work, spec["recipe"], steps)
        config = config | {"epochs": 2}  # the recipe exits after the first epoch
    else:
        resumed_at = resume.copy_checkpoint(earlier, work, spec["recipe"])
        resumes = resumed_at > 0
    write_native(folder, config | {"resume_from_checkpoint": resumes})
    started = time.perf_counter()
    try:
        train(folder, spec, config)
    except (Exception, SystemExit) as problem:
        failed = not isinstance(problem, SystemExit) or problem.code == 1  # 1: it was not killed
        if failed and resumed_at and len(resume.losses_of(work)) == resumed_at:
            resume.discard_checkpoints(folder, spec)
            print(
                "training failed before the first step from the checkpoint: the next attempt "
                "starts from the first step",
                flush=True,
            )
        raise
    seconds = time.perf_counter() - started
    losses = resume.losses_of(work)
    check_losses(losses, samples.lengths_of(folder))
    epochs = sorted(work.glob("epoch_*"), key=lambda path: int(path.name.removeprefix("epoch_")))
    if not epochs:
        raise RuntimeError("torchtune saved no checkpoint")
    package_adapter(epochs[-1], folder / "adapter", Path(spec["base"]))
    if part:
        resume.end_part(work, folder / "state", len(part["rates"]), len(losses))
    resume.mark_trained(folder, losses)
    return losses, resumed_at, seconds


def write_native(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config`` where torchtune reads it."""
    import yaml  # a dependency of torchtune

    (folder / "torchtune.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def rank(folder: Path) -> None:
    """Run the recipe in one of several processes."""
    processes.end_with_parent()
    import yaml
    from torch.distributed.elastic.multiprocessing.errors import record

    spec = json.loads((folder / "run" / "spec.json").read_text())
    native = folder / "torchtune.yaml"
    config = yaml.safe_load(native.read_text())
    patch_torchtune(config, spec, folder / "run" / "work")
    if os.environ["RANK"] == "0":
        samples.check_lengths(folder, config)
    record(run_recipe)(spec["recipe"], native)


if __name__ == "__main__":
    # The import of torchtune creates many objects, so garbage collection would take a second.
    gc.set_threshold(100_000, 50, 100)
    here = os.path.dirname(os.path.abspath(__file__))
    # This folder's modules would shadow others of the same name.
    sys.path[:] = [place for place in sys.path if place != here]
    path, *role = sys.argv[1:]
    if role == ["rank"]:
        rank(Path(path))
    elif role:
        processes.agent(Path(path), *role[1:])
    else:
        main(Path(path))
