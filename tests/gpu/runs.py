"""Fine-tunes of the GPU check: by mosweep, killed and resumed, and by ``tune run``."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from tests.gpu.made import ONE_BILLION, SMALL

from mosweep.backends.torchtune.config import load_recipe
from mosweep.backends.torchtune.resume import read_losses
from mosweep.backends.torchtune.run import TorchtuneTrainingRun
from mosweep.backends.torchtune.training import CHILD_ENVIRONMENT, TorchtuneTrainingBackend
from mosweep.core.errors import StageError
from mosweep.core.paths import shipped

__all__ = ["CPU", "GPU", "Run", "Runs", "Scale"]

RECIPE = "lora_finetune_single_device"
STATE = "run/work/recipe_state/recipe_state.pt"


@dataclass(frozen=True)
class Scale:
    """How large the check is. A step takes ``batch`` × ``accumulation`` chats."""

    device: str
    dtype: str
    sizes: Mapping[str, int]
    rows: int
    letters: int
    batch: int
    accumulation: int
    prompts: int
    new_tokens: int
    repeats: int
    """Timed runs of mosweep and of ``tune run``; 0: the first run of mosweep is the yardstick."""
    epochs: int = 3

    @property
    def steps(self) -> int:
        """Optimizer steps of a run."""
        return self.epochs * (self.rows // (self.batch * self.accumulation))


GPU = Scale("cuda", "bfloat16", ONE_BILLION, 320, 200, 16, 2, 64, 128, 2)
CPU = Scale("cpu", "float32", SMALL, 16, 8, 4, 1, 4, 8, 0)


class Log:
    """Follows the log of the losses while a trainer writes it; mosweep removes it at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[int, float] = {}
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(0.02):
            with contextlib.suppress(OSError, ValueError):  # removed, or half written
                self._read(time.perf_counter())

    def _read(self, now: float) -> None:
        for path in self.folder.glob("log_*.txt"):
            for line in path.read_text().splitlines():
                if match := re.match(r"Step (\d+) \| loss:\S+", line):
                    self.seen.setdefault(int(match[1]), now)
                if match := re.search(r" peak_memory_alloc:(\S+) ", line):
                    self.peak = max(self.peak, float(match[1]))

    @property
    def steps_per_second(self) -> float:
        """Between the first and the last step."""
        if len(self.seen) < 2:
            return math.nan
        first, last = min(self.seen), max(self.seen)
        return (last - first) / (self.seen[last] - self.seen[first])

    @property
    def peak_memory(self) -> str:
        """As torchtune measures it, in GiB."""
        return f"{self.peak:.1f} GiB" if self.peak else "not measured on a CPU"


@dataclass
class Run:
    """A finished run: how long all of it took, and its losses."""

    adapter: Path
    seconds: float
    losses: list[float]
    log: Log
    resumed_at: int = 0


@dataclass
class Runs:
    """The fine-tunes of one check, each in a folder of its own below ``folder``.

    They use the model in ``base`` and the chats in ``train.jsonl`` there, and end before
    ``deadline``, a time of ``perf_counter``. The log of one that fails is copied to ``out``.
    """

    scale: Scale
    folder: Path
    deadline: float
    out: Path | None
    finished: dict[str, Run] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()

    def done(self, name: str) -> Run:
        """An earlier run, which another step needs."""
        if name not in self.finished:
            raise RuntimeError(f"it needs the run {name!r}, which failed")
        return self.finished[name]

    def train(
        self,
        name: str,
        settings: Mapping[str, Any],
        previous: Path | None = None,
        kill: bool = False,
    ) -> Run | None:
        """Fine-tune with mosweep; ``None`` if the run was killed, once it had saved an epoch."""
        recipe = load_recipe(shipped("recipes") / "torchtune" / "llama3_2_1b.yaml")
        if self.scale.sizes is not ONE_BILLION:
            recipe["model"]["_component_"] = "torchtune.models.llama3_2.lora_llama3_2"
        folder = self.folder / name
        backend = TorchtuneTrainingBackend(
            recipe, folder, device=self.scale.device, detached=False, previous=previous
        )
        settings = {
            "batch_size": self.scale.batch,
            "gradient_accumulation_steps": self.scale.accumulation,
            "epochs": self.scale.epochs,
            "lr_scheduler.num_warmup_steps": 3,
            "optimizer.lr": 1e-3,
            **settings,
        }

        async def go() -> TorchtuneTrainingRun:
            run = await backend.train(self.folder / "train.jsonl", self.folder / "base", settings)
            while kill and await run.refresh() == "running" and self.left > 0:
                if (folder / STATE).exists():
                    os.killpg(run._process.pid, signal.SIGKILL)
                    break
                await asyncio.sleep(0.002)
            try:
                await asyncio.wait_for(run.wait(), max(self.left, 1))
            except TimeoutError:
                await run.cancel()
                raise TimeoutError(f"the run {name!r} took too long") from None
            return run

        started = time.perf_counter()
        with self._kept(folder / "torchtune.log"), Log(folder / "run" / "work" / "logs") as log:
            try:
                run = asyncio.run(go())
            except StageError as error:
                if kill and "killed" in str(error):
                    return None
                raise
            seconds = time.perf_counter() - started
        if kill:
            raise RuntimeError("the run ended before it could be killed")
        result = run.result()
        losses = [loss for _, loss in result.losses]
        self.finished[name] = Run(run.adapter, seconds, losses, log, result.resumed_at_step)
        return self.finished[name]

    def tune(self, name: str, like: Path) -> Run:
        """Fine-tune with ``tune run`` and the config of the run in ``like``."""
        folder = self.folder / name
        folder.mkdir()
        config = yaml.safe_load((like / "torchtune.yaml").read_text())
        config["output_dir"] = config["checkpointer"]["output_dir"] = str(folder)
        config["metric_logger"]["log_dir"] = str(folder / "logs")
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "torchtune._cli.tune", "run", RECIPE]
        environment = {
            **CHILD_ENVIRONMENT,
            "HF_DATASETS_CACHE": str(folder / "datasets"),
            **os.environ,
        }
        started = time.perf_counter()
        with (
            self._kept(folder / "torchtune.log") as path,
            open(path, "w") as output,
            Log(folder / "logs") as log,
        ):
            subprocess.run(
                [*command, "--config", str(folder / "config.yaml")],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=max(self.left, 1),
            )
            seconds = time.perf_counter() - started
        losses = [loss for _, loss in read_losses(folder / "logs")]
        epoch = folder / f"epoch_{self.scale.epochs - 1}"
        self.finished[name] = Run(epoch, seconds, losses, log)
        return self.finished[name]

    @contextlib.contextmanager
    def _kept(self, log: Path) -> Iterator[Path]:
        """Print the end of the run's log, and keep all of it, if the run fails."""
        try:
            yield log
        except Exception:
            if log.exists():
                print("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
                if self.out:
                    shutil.copyfile(log, self.out / f"{log.parent.name}.log")
            raise
