"""The check that ``tests/gpu/check.sh`` runs: fine-tuning and generation with a model of 1B
parameters on a GPU, or with a small one on the CPU.

Each step adds rows to one table. A step that fails adds a row that says why, and the next step
runs. To check another trainer, add its steps to ``STEPS``. If its packages must not meet
torchtune's, give their folder to its processes alone, in ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu.made import write_base, write_chats
from tests.gpu.runs import CPU, GPU, Run, Runs, Scale

from mosweep.evals.inspect.generation import Prompt, Sampling, checkpoint
from mosweep.models import lora

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "torchtune",
    "torchao",
    "torchdata",
    "datasets",
    "pyarrow",
    "numpy",
    "omegaconf",
)
#: How much longer than ``tune run`` mosweep may take.
TIME_GOAL = 1.03
#: How far the logits may be from those of the merged weights, and in float32 from those of base and
#: adapter computed apart.
BF16_TOLERANCE = 0.05
FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ok`` is ``None`` for what is only reported."""

    step: str
    measure: str
    value: str
    ok: bool | None = None


@dataclass
class Check:
    """The check in ``folder``, to be done in so many ``seconds``."""

    scale: Scale
    folder: Path
    seconds: float
    out: Path | None
    rows: list[Row] = field(default_factory=list)
    step: str = ""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.runs = Runs(self.scale, self.folder, self.began + self.seconds, self.out)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def spent(self) -> float:
        """Seconds since the check began."""
        return time.perf_counter() - self.began

    def add(self, measure: str, value: object, ok: bool | None = None) -> None:
        """A row of the table."""
        self.rows.append(Row(self.step, measure, str(value), ok))
        mark = {None: "", True: "  ok", False: "  FAILED"}[ok]
        print(f"[{self.spent:5.0f} s] {self.step}: {measure}: {value}{mark}")

    def run(self, only: Sequence[str] = ()) -> None:
        """All steps, or those that ``only`` names, whatever becomes of each."""
        for step in STEPS:
            self.step = step.__name__
            if only and self.step not in (*only, "versions", "base"):
                continue
            try:
                if self.runs.left < 0:
                    raise TimeoutError("no time left")
                step(self)
            except Exception as error:
                traceback.print_exc()
                self.add("error", f"{type(error).__name__}: {' '.join(str(error).split())}", False)
            self.save()

    def save(self) -> None:
        """Write the table so far to ``gpu.json``."""
        if self.out:
            rows = [vars(row) for row in self.rows]
            known = {
                "device": self.scale.device,
                "passed": self.passed,
                "seconds": round(self.spent, 1),
                "rows": rows,
            }
            (self.out / "gpu.json").write_text(json.dumps(known, indent=1) + "\n")

    @property
    def passed(self) -> bool:
        return all(row.ok is not False for row in self.rows)

    def table(self) -> str:
        """The table in Markdown."""
        marks = {None: "", True: "ok", False: "FAILED"}
        lines = ["| step | measure | value | |", "|---|---|---|---|"]
        lines += [f"| {r.step} | {r.measure} | {r.value} | {marks[r.ok]} |" for r in self.rows]
        return "\n".join(lines)


# -- the steps -------------------------------------------------------------------------------------


def versions(check: Check) -> None:
    """What the machine has."""
    import torch

    check.add("python", f"{platform.python_version()} on {platform.machine()}")
    check.add("cpus", os.cpu_count())
    if check.scale.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        check.add("card", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
        check.add("cuda", torch.version.cuda)
    else:
        check.add("card", "none: the small check on the CPU")
    for package in PACKAGES:
        check.add(package, importlib.metadata.version(package))


def base(check: Check) -> None:
    """The model and the chats."""
    import torch

    scale = check.scale
    check.asked = write_chats(check.folder / "train.jsonl", scale.rows, scale.letters, seed=1)
    started = time.perf_counter()
    count = write_base(check.base, scale.sizes, scale.device, scale.dtype, seed=1)
    check.add("parameters", f"{count / 1e9:.3f} billion, {scale.dtype}")
    check.add("time", f"{time.perf_counter() - started:.1f} s")
    gc.collect()
    if scale.device == "cuda":
        torch.cuda.empty_cache()


def training(check: Check) -> None:
    """LoRA through mosweep."""
    run = check.runs.train("first", {})
    assert run is not None
    _, weights = read_adapter(run.adapter)
    steps, losses = check.scale.steps, run.losses
    check.add("steps", f"{len(losses)} of {steps}", len(losses) == steps)
    check.add("time", f"{run.seconds:.1f} s, imports and loading included")
    check.add("speed", f"{run.log.steps_per_second:.2f} steps/s")
    check.add("peak memory", run.log.peak_memory)
    finite = all(map(math.isfinite, losses))
    check.add("first and last loss", f"{losses[0]:.4f}, {losses[-1]:.4f}", finite)
    check.add("adapter", f"{len(weights)} matrices", len(weights) > 0)


def resume(check: Check) -> None:
    """A run that is killed in the middle and resumed, against one that is not.

    On the CPU both are equal. Attention on a GPU sums in no fixed order, so there the yardstick is
    how much two runs differ that are not killed.
    """
    settings = {"cudnn_deterministic_mode": "warn"} if check.scale.device == "cuda" else {}
    whole = check.runs.train("whole", settings) if settings else check.runs.done("first")
    check.runs.train("killed", settings, kill=True)
    resumed = check.runs.train("resumed", settings, previous=check.folder / "killed")
    assert whole is not None
    assert resumed is not None
    check.add("resumed after step", resumed.resumed_at, 0 < resumed.resumed_at < check.scale.steps)
    log = (whole.adapter.parent / "torchtune.log").read_text(errors="replace")
    if unsteady := sorted(set(re.findall(r"(\w+) does not have a deterministic", log))):
        check.add("operations that are not deterministic", ", ".join(unsteady))
    pairs = zip(resumed.losses, whole.losses, strict=True)
    check.add("largest difference of a loss", f"{max(abs(a - b) for a, b in pairs):.3g}")
    gap, most = difference(resumed.adapter, whole.adapter), 0.0
    if settings:
        again = check.runs.train("whole-again", settings)
        assert again is not None
        most = 3 * difference(again.adapter, whole.adapter)
        check.add("three times what two whole runs differ by", f"{most:.3g}")
    check.add("adapter", "equal" if gap == 0 else f"largest difference {gap:.3g}", gap <= most)


def overhead(check: Check) -> None:
    """The same run by ``tune run``."""
    first, like = check.runs.done("first"), check.folder / "first"
    ours: list[Run] = []
    theirs: list[Run] = []
    for number in range(max(check.scale.repeats, 1)):
        if number and check.runs.left < 3 * (ours[0].seconds + theirs[0].seconds):
            break  # the next step needs the time
        theirs.append(check.runs.tune(f"tune-{number}", like))
        again = check.runs.train(f"again-{number}", {}) if check.scale.repeats else first
        assert again is not None
        ours.append(again)
    for name, runs in (("mosweep", ours), ("tune run", theirs)):
        times = ", ".join(f"{run.seconds:.1f}" for run in runs)
        speeds = statistics.median(run.log.steps_per_second for run in runs)
        check.add(name, f"{times} s; {speeds:.2f} steps/s")
    ratio = min(run.seconds for run in ours) / min(run.seconds for run in theirs)
    goal = ratio <= TIME_GOAL if check.scale.repeats else None
    check.add("mosweep / tune run, fastest of each", f"{ratio:.3f}", goal)
    check.add("last loss of tune run", f"{theirs[0].losses[-1]:.4f}")
    gap = difference(ours[0].adapter, theirs[0].adapter)
    check.add("largest difference of the adapters", f"{gap:.3g}")
    if len(ours) > 1:
        gap = difference(ours[0].adapter, ours[1].adapter)
        check.add("the same between two runs of mosweep", f"{gap:.3g}")


def generation(check: Check) -> None:
    """Evaluation with the adapter."""
    import torch

    scale, adapter = check.scale, check.runs.done("first").adapter
    merged = check.folder / "merged"
    lora.merge(check.base, adapter, merged)
    text = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    text = f"<|begin_of_text|>{text}<|start_header_id|>assistant<|end_header_id|>\n\n"
    prompts = [Prompt(text.format(asked)) for asked in check.asked[: scale.prompts]]
    with checkpoint(check.base, None, scale.device, scale.dtype) as plain:
        untuned = logits(plain, prompts[:4])
    with checkpoint(check.base, adapter, scale.device, scale.dtype) as tuned:
        found = logits(tuned, prompts[:4])
        tuned.generate(prompts, Sampling(max_tokens=2))
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        completions = tuned.generate(prompts, Sampling(max_tokens=scale.new_tokens))
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if scale.device == "cuda" else 0
    with checkpoint(merged, None, scale.device, scale.dtype) as other:
        expected = logits(other, prompts[:4])
    change = (found - untuned).abs().max().item()
    check.add("the adapter changes a logit by up to", f"{change:.3g}", change > 0)
    gap = (found - expected).abs().max().item()
    check.add("difference to the merged weights", f"{gap:.3g}", gap <= BF16_TOLERANCE)
    with checkpoint(check.base, adapter, scale.device, "float32") as tuned:
        found = logits(tuned, prompts[:4])
    with (
        checkpoint(check.base, None, scale.device, "float32") as plain,
        added(plain.model, adapter),
    ):
        expected = logits(plain, prompts[:4])
    gap = (found - expected).abs().max().item()
    check.add("difference to base + adapter, float32", f"{gap:.3g}", gap <= FLOAT32_TOLERANCE)
    tokens = sum(completion.output_tokens for completion in completions)
    check.add(f"{len(prompts)} prompts at once", f"{tokens / seconds:.0f} tokens/s", tokens > 0)
    if peak:
        check.add("peak memory of that", f"{peak / 2**30:.1f} GiB")


STEPS: tuple[Callable[[Check], None], ...] = (
    versions,
    base,
    training,
    resume,
    overhead,
    generation,
)


# -- adapters and logits ---------------------------------------------------------------------------


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and the matrices of an adapter."""
    from safetensors.torch import load_file

    return lora.read_config(folder), load_file(folder / "adapter_model.safetensors")


def difference(one: Path, other: Path) -> float:
    """The largest difference between two adapters' values."""
    (_, ours), (_, theirs) = read_adapter(one), read_adapter(other)
    if ours.keys() != theirs.keys():
        raise ValueError("the adapters have different matrices")
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


def logits(model: Any, prompts: list[Prompt]) -> Any:
    """The logits of all tokens of the prompts, one prompt after another, in float32."""
    import torch

    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            tokens = model.tokenizer(prompt.text, add_special_tokens=False, return_tensors="pt")
            output = model.model(tokens["input_ids"].to(model.device))
            rows.append(output.logits[0].float().cpu())
    return torch.cat(rows)


@contextlib.contextmanager
def added(model: Any, adapter: Path) -> Iterator[None]:
    """The adapter as layers beside those of the ``model``: W·x + alpha/r · B·(A·x)."""
    config, weights = read_adapter(adapter)
    scale = config["lora_alpha"] / config["r"]

    def forward(a: Any, b: Any, _: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        return output + scale * ((inputs[0] @ a.T) @ b.T)

    hooks = []
    for name, a in weights.items():
        if name.endswith(".lora_A.weight"):
            b = weights[name.replace(".lora_A.", ".lora_B.")]
            a, b = a.to(model.device, model.dtype), b.to(model.device, model.dtype)
            module = model.get_submodule(
                name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            )
            hooks.append(module.register_forward_hook(partial(forward, a, b)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def main() -> int:
    """Run the check; the exit status."""
    import torch

    parser = argparse.ArgumentParser(prog="tests/gpu/check.sh", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="the small check on the CPU")
    parser.add_argument("--seconds", type=float, default=470, help="start nothing after these")
    parser.add_argument("--only", action="append", help="run this step alone; repeatable")
    options = parser.parse_args()
    scale = GPU if torch.cuda.is_available() and not options.cpu else CPU
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    with tempfile.TemporaryDirectory(prefix="mosweep-gpu-") as folder:
        check = Check(scale, Path(folder), options.seconds, out)
        check.run(options.only or ())
    print(f"\n{check.table()}")
    return 0 if check.passed else 1


if __name__ == "__main__":
    sys.exit(main())
