"""Run one torchtune recipe and package its results.

This is a script for the interpreter that trains. It must not import mosweep, which that
interpreter may not have.

``python child.py FOLDER`` reads ``FOLDER/run/spec.json`` (recipe, native config, base, processes
and so on) and runs torchtune's own recipe. It resumes from the last checkpoint of an earlier
attempt if there is one. It leaves ``adapter/``, ``losses.json``, ``run/result.json`` and, if asked
for, ``merged/``. The exit status is reliable: a run fails if its loss is not finite, if it took no
step, or if it left no adapter.

With one process, this process runs the recipe. Otherwise torchrun starts the processes as
``child.py FOLDER rank``. On several nodes of a Slurm job, srun first starts ``child.py FOLDER
agent ENDPOINT ID`` on each node. ``patch_torchtune`` lists the changes to torchtune and their
reasons.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import math
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

SITES = ("q_proj", "k_proj")
PR_SET_PDEATHSIG = 1


def _load(path: str | Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mosweep_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from mosweep.backends.torchtune import resume
else:
    resume = _load(Path(__file__).with_name("resume.py"))


def check_losses(losses: list[list[float]]) -> None:
    """Raise ``RuntimeError`` if the losses show that training failed."""
    if not losses:
        raise RuntimeError("training took no step")
    for step, loss in losses:
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the loss became {loss} at step {step:g}: training diverged (is the learning "
                "rate too high?)"
            )


def package_adapter(epoch: Path, out: Path, base: Path) -> None:
    """Write the adapter that torchtune left in ``epoch`` to ``out``, in PEFT's layout."""
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
        # For every family, torchtune reorders the rows of B for q and k as Llama's rotary
        # embedding needs it. Qwen2 does not need it.
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


def alone(spec: Mapping[str, Any]) -> bool:
    """Whether the recipe runs in a single process: this one."""
    return bool(spec["processes"] * spec["nodes"] == 1)


def in_a_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a short-lived process, as a process that uses a GPU keeps it in use."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def watch(lifeline: int) -> None:
    """End this process group when the other end of the pipe ``lifeline`` is closed.

    That means that the process that waits for the result is dead.
    """

    def listen() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()


def end_with_parent() -> None:
    """Have the kernel end this process when its parent, torchrun, ends.

    torchrun starts it in a separate session, so signals to the group do not reach it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_after_first_epoch() -> None:
    """Make the recipe exit after it has saved its first epoch.

    After its last epoch it would not save the optimizer.
    """
    from torch.utils.data.distributed import DistributedSampler

    begin = DistributedSampler.set_epoch

    def begin_or_end(self: DistributedSampler[Any], epoch: int) -> None:
        if epoch > 0:
            sys.exit(0)
        begin(self, epoch)

    DistributedSampler.set_epoch = begin_or_end  # type: ignore[method-assign]


def scheduler_of(rates: list[float], optimizer: Any) -> Any:
    """A scheduler that sets these learning rates step by step, whatever the optimizer had."""
    from torch.optim.lr_scheduler import LambdaLR

    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1.0
    return LambdaLR(optimizer, lambda done: rates[min(done, len(rates) - 1)])


def patch_torchtune(config: Mapping[str, Any], spec: Mapping[str, Any], work: Path) -> None:
    """Patch torchtune 0.6.1 in this process. The files of its recipes are not changed.

    - Recipe states are written atomically, with everything that a resumed run needs.
    - A part of a run uses its own learning rates and ends after one epoch.
    - A resumed run continues the learning rate schedule and the random numbers.
    - The distributed recipe also runs on CPUs.
    """
    import torch
    import torchtune.config
    import torchtune.training

    resume.save_whole_states(work, spec["recipe"])
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
        # On any device, lora_finetune_distributed uses NCCL, reads memory statistics and empties
        # the GPU's cache. A CPU has none of them.
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
    """Run the recipe in this process, or in the processes that ``spec`` asks for."""
    if alone(spec):
        patch_torchtune(config, spec, folder / "run" / "work")
        run_recipe(spec["recipe"], folder / "torchtune.yaml")
    elif spec["nodes"] == 1:
        torchrun(folder, spec, ["--standalone"])
    else:
        srun(folder, spec)


class RankError(RuntimeError):
    """One of several processes failed."""


def torchrun(folder: Path, spec: Mapping[str, Any], rendezvous: list[str]) -> None:
    """Run the recipe in ``spec["processes"]`` processes on this machine.

    Raises ``RankError``, which says which process failed first and why. If a process was killed,
    or if this process is told to end, it raises ``SystemExit`` with 128 plus the signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        arguments = [
            *rendezvous,
            "--nproc-per-node",
            str(spec["processes"]),
            __file__,
            str(folder),
            "rank",
        ]
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"RankError: rank {rank} was killed (signal {-failure.exitcode}; out of memory?)",
                file=sys.stderr,
            )
            sys.exit(128 - failure.exitcode)
        reason: Any = failure.message  # from ``record``: text or a mapping
        reason = reason["message"] if isinstance(reason, dict) else reason
        raise RankError(f"rank {rank}: {' '.join(str(reason).split())}") from None
    except SignalException as signalled:
        sys.exit(128 + signalled.sigval)


def srun(folder: Path, spec: Mapping[str, Any]) -> None:
    """Run torchrun on every node of this Slurm job. This node is the first, the rendezvous.

    Raises ``SystemExit`` if it fails. The agents print the reason.
    """
    job, nodes = os.environ["SLURM_JOB_ID"], str(spec["nodes"])
    # below the range of Linux's ephemeral ports
    endpoint = f"{socket.gethostname()}:{20000 + int(job) % 12000}"
    rendezvous_id = f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    flags = ["--ntasks-per-node=1", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit=1"]
    command = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        *flags,
        sys.executable,
        __file__,
        str(folder),
        "agent",
        endpoint,
        rendezvous_id,
    ]
    # srun forwards its input to all agents, and they end when it closes. If srun itself were
    # killed, they would keep running. So it gets a separate session, out of reach of our signals.
    held, lifeline = os.pipe()
    code = subprocess.run(command, stdin=held, start_new_session=True, check=False).returncode
    os.close(lifeline)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def main(folder: Path) -> None:
    """Train, check, package."""
    spec = json.loads((folder / "run" / "spec.json").read_text())
    if spec["lifeline"] is not None:
        watch(spec["lifeline"])
    base, work, native = Path(spec["base"]), folder / "run" / "work", folder / "torchtune.yaml"
    config = (
        resolve_auto(spec["config"]) if alone(spec) else in_a_fork(resolve_auto, spec["config"])
    )
    import yaml  # torchtune needs it too

    earlier, part = list(resume.earlier(spec)), spec["part"]
    losses, seconds = None if part else resume.take_trained(earlier, folder), 0.0
    begun = len(losses or [])
    if losses is None:
        if part:
            config |= {"epochs": 2}  # it ends after the first
            resumes = bool(part["start"])
            if resumes:
                resume.begin_part(
                    Path(part["start"]), work, spec["recipe"], config["max_steps_per_epoch"]
                )
        else:
            begun = resume.copy_checkpoint(earlier, work, spec["recipe"])
            resumes = begun > 0
        native.write_text(
            yaml.safe_dump(config | {"resume_from_checkpoint": resumes}, sort_keys=False)
        )
        started = time.perf_counter()
        try:
            train(folder, spec, config)
        except (Exception, SystemExit) as problem:
            failed = not isinstance(problem, SystemExit) or problem.code == 1  # and not killed
            if failed and begun and len(resume.losses_of(work)) == begun:
                resume.discard_checkpoints(folder, spec)
                print(
                    "no step was taken from the checkpoint: the next attempt will start from the "
                    "first step",
                    flush=True,
                )
            raise
        seconds = time.perf_counter() - started
        losses = resume.losses_of(work)
        check_losses(losses)
        epochs = sorted(
            work.glob("epoch_*"), key=lambda path: int(path.name.removeprefix("epoch_"))
        )
        if not epochs:
            raise RuntimeError("training left no checkpoint")
        package_adapter(epochs[-1], folder / "adapter", base)
        if part:
            resume.end_part(work, folder / "state", len(part["rates"]), len(losses))
        resume.mark_trained(folder, losses)
    else:
        native.write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "losses.json").write_text(json.dumps(losses) + "\n")
    if spec["merged"]:
        _load(spec["lora"]).merge(base, folder / "adapter", folder / "merged")
    # torchtune's own folders mix files of several formats, which confuses loaders
    shutil.rmtree(work, ignore_errors=True)
    result = {
        "steps": len(losses),
        "final_loss": losses[-1][1],
        "train_seconds": round(seconds, 3),
        "resumed_at_step": begun,
    }
    result |= {
        "device": config["device"],
        "dtype": config["dtype"],
        "world_size": spec["processes"] * spec["nodes"],
    }
    (folder / "run" / "result.json").write_text(json.dumps(result) + "\n")
    for other in earlier:
        if not (other / "run" / "result.json").exists():
            for name in ("run/work", "merged"):
                shutil.rmtree(other / name, ignore_errors=True)


def agent(folder: Path, endpoint: str, rendezvous_id: str) -> None:
    """Run this node's processes of a run on several nodes."""
    watch(0)
    spec = json.loads((folder / "run" / "spec.json").read_text())
    rendezvous = [
        "--nnodes",
        str(spec["nodes"]),
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        endpoint,
        "--rdzv-id",
        rendezvous_id,
    ]
    try:
        torchrun(folder, spec, rendezvous)
    except RankError:
        raise
    # A consequence of a failure on another node. The indent keeps it from passing for the cause.
    except Exception:
        print(
            textwrap.indent(traceback.format_exc(), f"[{socket.gethostname()}] "), file=sys.stderr
        )
        sys.exit(1)


def rank(folder: Path) -> None:
    """Run the recipe in one of several processes."""
    end_with_parent()
    import yaml
    from torch.distributed.elastic.multiprocessing.errors import record

    spec = json.loads((folder / "run" / "spec.json").read_text())
    native = folder / "torchtune.yaml"
    patch_torchtune(yaml.safe_load(native.read_text()), spec, folder / "run" / "work")
    record(run_recipe)(spec["recipe"], native)


if __name__ == "__main__":
    # importing torchtune creates so many objects that collecting garbage takes a second
    gc.set_threshold(100_000, 50, 100)
    sys.path.pop(0)  # this file's folder, whose modules would hide others of the same name
    path, *role = sys.argv[1:]
    if role == ["rank"]:
        rank(Path(path))
    elif role:
        agent(Path(path), *role[1:])
    else:
        main(Path(path))
