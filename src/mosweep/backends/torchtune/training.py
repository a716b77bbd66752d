"""Fine-tuning with torchtune's stock recipes, in separate processes.

The processes run under any Python interpreter that has torchtune.

A run has a folder with ``torchtune.yaml`` (the native config that was run), ``torchtune.log``,
``losses.json`` (``[[step, loss], …]``), ``adapter/`` in PEFT's layout, ``merged/`` if asked for,
and ``run/``, from which another process can attach to it.

A killed run can be resumed in another folder, from the end of its last epoch. torchtune saves
nothing within an epoch, so a run of one epoch starts again from its first step.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import mosweep.models.lora as lora
from mosweep.backends.torchtune import child as torchtune_child
from mosweep.backends.torchtune import config as torchtune_config
from mosweep.backends.torchtune.detached import LIFELINE, Detached
from mosweep.backends.torchtune.run_config import complete
from mosweep.backends.training import RunStatus
from mosweep.core.errors import ConfigError, StageError
from mosweep.core.fingerprint import digest_file
from mosweep.datasets.jsonl import JSONLDataset

__all__ = [
    "Part",
    "TorchtuneResult",
    "TorchtuneTrainingBackend",
    "TorchtuneTrainingRun",
    "last_error",
]

#: Default environment variables of the training process. One thread, because more threads than
#: free cores make small models many times slower.
CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class TorchtuneResult:
    """What a finished run measured.

    - ``seconds``: wall time of the whole run
    - ``train_seconds``: wall time of the recipe alone
    - ``resumed_at_step``: the step that it resumed from, or 0
    - ``world_size``: the number of processes that trained

    A resumed run has the losses of all steps from the first. Its times include only itself.
    """

    steps: int
    final_loss: float
    seconds: float
    train_seconds: float
    losses: tuple[tuple[int, float], ...]
    device: str
    dtype: str
    world_size: int
    resumed_at_step: int


@dataclass
class TorchtuneTrainingRun:
    """A run of a torchtune recipe in ``folder``."""

    id: str
    folder: Path
    status: RunStatus = "running"
    _lifeline: int | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """The output of the recipe."""
        return self.folder / "torchtune.log"

    @property
    def adapter(self) -> Path:
        """The adapter: ``adapter_config.json`` and ``adapter_model.safetensors``."""
        return self.folder / "adapter"

    @property
    def model_id(self) -> str | None:
        """The folder of the merged model if there is one, or else of the adapter.

        ``None`` until the run has succeeded.
        """
        if self.status != "succeeded":
            return None
        merged = self.folder / "merged"
        return str(merged if merged.is_dir() else self.adapter)

    @cached_property
    def _process(self) -> Detached:
        return Detached.attach(self.folder / "run")

    async def refresh(self) -> RunStatus:
        """Poll the process and its files."""
        if self.status in ("queued", "running"):
            code = self._process.exit_status()
            if code is not None:
                self.status = (
                    "succeeded"
                    if code == 0
                    else "cancelled"
                    if self._process.cancelled
                    else "failed"
                )
        return self.status

    async def wait(self) -> str:
        """Wait for the end of training and return ``model_id``.

        Raises ``StageError`` with the log and the last error in it.
        """
        try:
            await self._ended()
        finally:
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None
        if self.model_id is None:
            raise StageError(self._failure(), str(self.log))
        return self.model_id

    async def _ended(self) -> None:
        pause = 0.02
        while await self.refresh() in ("queued", "running"):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def result(self) -> TorchtuneResult:
        """What the finished run measured."""
        known = json.loads((self.folder / "run" / "result.json").read_text())
        losses = tuple(
            (int(step), float(loss))
            for step, loss in json.loads((self.folder / "losses.json").read_text())
        )
        spec = json.loads((self.folder / "run" / "spec.json").read_text())
        seconds = (self.folder / "run" / "result.json").stat().st_mtime - spec["started"]
        return TorchtuneResult(losses=losses, seconds=round(seconds, 3), **known)

    async def cancel(self) -> None:
        """End the process and its children."""
        if await self.refresh() == "running":
            await asyncio.to_thread(self._process.cancel)
            await self.refresh()

    async def save(self, path: Path) -> None:
        """Write id and folder."""
        path.write_text(json.dumps({"id": self.id, "folder": str(self.folder)}) + "\n")

    @classmethod
    async def load(cls, path: Path) -> Self:
        """Attach to the run that ``save`` wrote, running or ended."""
        data = json.loads(path.read_text())
        run = cls(data["id"], Path(data["folder"]))
        await run.refresh()
        return run

    def _failure(self) -> str:
        if self.status == "cancelled":
            return f"torchtune run {self.id} was cancelled"
        code = self._process.exit_status()
        if code in (137, -1):
            return "torchtune was killed (out of memory?)"
        error = last_error(self.log)
        if error:
            return f"torchtune: {error}"
        return f"torchtune ended with exit status {code}"


@dataclass(frozen=True)
class Part:
    """A part of a longer run: one pass over the data in order, one step per learning rate.

    ``rates`` are the learning rates. The part resumes from the adapter and the optimizer in the
    folder ``start``, which is the ``state`` of the previous part, and leaves its own ``state``.
    """

    rates: tuple[float, ...]
    start: str | Path | None = None

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The native config, changed for a part."""
        scheduler = {
            torchtune_config.COMPONENT: "torchtune.training.lr_schedulers."
            "get_cosine_schedule_with_warmup",
            "num_warmup_steps": 0,
        }
        return {
            **config,
            "epochs": 1,
            "max_steps_per_epoch": None,
            "shuffle": False,
            "lr_scheduler": scheduler,
        }


@dataclass(frozen=True)
class TorchtuneTrainingBackend:
    """Runs ``recipe`` with ``config`` (a native config or its path) under ``python``.

    The run uses ``folder`` if no run is in it yet, else a new folder below it. ``environment``
    overrides this process's environment, which overrides ``CHILD_ENVIRONMENT``. ``device``
    overrides the recipe's. ``merged`` also writes the full model. A ``detached`` run continues when
    the process that started it ends. Any other run ends with it, or when ``wait`` is cancelled.

    ``processes`` per node, on ``nodes`` of the current Slurm job, share each batch of
    ``batch_size`` samples evenly. They run under torchrun, with torchtune's distributed recipe in
    place of ``lora_finetune_single_device``; other recipes are run as named. They take the same
    steps as one process would, but the adapter starts from other random weights.

    ``previous``: the folder of an earlier attempt at the same run, whose processes are dead. Usable
    checkpoints of it, and of the attempts before it, are copied and resumed from. They are removed
    when this run has succeeded. A ``part`` ignores them and starts from its own ``start``.
    """

    config: Mapping[str, Any] | str | Path
    folder: str | Path
    python: str = sys.executable
    recipe: str = "lora_finetune_single_device"
    environment: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    merged: bool = False
    detached: bool = True
    processes: int = 1
    nodes: int = 1
    previous: str | Path | None = None
    part: Part | None = None

    async def train(
        self,
        dataset: JSONLDataset | str | Path,
        model: str | Path,
        hyperparameters: Mapping[str, Any] | None = None,
        suffix: str | None = None,
    ) -> TorchtuneTrainingRun:
        """Start fine-tuning the Hugging Face model in the folder ``model`` on ``dataset``.

        ``dataset`` may be the path of a file. ``hyperparameters`` are native settings by dotted
        path: ``{"optimizer.lr": 1e-4}``. Raises ``ConfigError`` for a setting that the config does
        not have, a data set too small for one step, a batch that the processes cannot share
        evenly, and several nodes outside a Slurm job.
        """
        if self.nodes > 1 and "SLURM_JOB_ID" not in os.environ:
            problem = (
                "training on several nodes needs a Slurm job with these nodes: use "
                "hydra/launcher=slurm"
            )
            raise ConfigError("resources.nodes", self.nodes, problem)
        if not isinstance(dataset, JSONLDataset):
            dataset = await JSONLDataset.load(dataset)
        config = (
            self.config
            if isinstance(self.config, Mapping)
            else torchtune_config.load_recipe(self.config)
        )
        config = torchtune_config.merge(config, hyperparameters or {})
        if self.part:
            config = self.part.of(config)
        torchtune_config.check(config, len(dataset))
        shared = torchtune_config.share(config, self.processes, self.nodes, len(dataset))
        run_id = f"{suffix or 'torchtune'}-{secrets.token_hex(4)}"
        folder = Path(self.folder).resolve()
        if (folder / "run").exists():
            folder /= run_id
        run, base = folder / "run", Path(model).resolve()
        # Only the messages, because torchtune's loader fails on rows with different extra keys.
        await JSONLDataset(dataset.to_openai_format()).save(run / "train.jsonl")
        native = complete(
            shared, base=base, data=run / "train.jsonl", output=run / "work", device=self.device
        )
        several = self.processes * self.nodes > 1
        identity = json.dumps(
            [config, self.recipe, str(base), digest_file(run / "train.jsonl")],
            sort_keys=True,
            default=str,
        )
        spec = {
            "recipe": torchtune_config.DISTRIBUTED.get(self.recipe, self.recipe)
            if several
            else self.recipe,
            "config": native,
            "processes": self.processes,
            "nodes": self.nodes,
            "identity": hashlib.sha256(identity.encode()).hexdigest(),
            "previous": str(Path(self.previous).resolve()) if self.previous else None,
            "base": str(base),
            "merged": self.merged,
            "part": {
                "rates": self.part.rates,
                "start": str(self.part.start) if self.part.start else None,
            }
            if self.part
            else None,
            "lora": lora.__file__,
            "started": time.time(),
            "lifeline": None if self.detached else LIFELINE,
        }
        (run / "spec.json").write_text(json.dumps(spec, indent=2) + "\n")
        environment = {
            **CHILD_ENVIRONMENT,
            "HF_DATASETS_CACHE": str(run / "work" / "datasets"),
            **os.environ,
            **self.environment,
        }
        command = [self.python, str(Path(torchtune_child.__file__)), str(folder)]
        watched, held = (None, None) if self.detached else os.pipe()
        Detached.start(command, run, folder / "torchtune.log", environment, watched)
        if watched is not None:
            os.close(watched)
        return TorchtuneTrainingRun(run_id, folder, _lifeline=held)


_ERROR = re.compile(
    r"^(?:[\w.]+(?:Error|Exception|Interrupt|Exit)\b.*"
    r"|.*\b(?:error|Error|ERROR|Killed|Segmentation fault)\b.*)$"
)


def last_error(log: Path) -> str | None:
    """The last line of a log that reports an error.

    The line of an exception is preferred to a line that only mentions an error.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            lines = [
                line.strip()
                for line in file.read().decode(errors="replace").replace("\r", "\n").split("\n")
            ]
    except FileNotFoundError:
        return None
    named = [
        line
        for line in lines
        if re.match(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b(?::|$)", line)
    ]
    errors = [line for line in lines if _ERROR.match(line)]
    # srun only reports that something ended
    candidates = named or [line for line in errors if not line.startswith("srun: ")] or errors
    if not candidates:
        return None
    text = (
        candidates[-1]
        .removeprefix("RuntimeError: ")
        .removeprefix("__main__.RankError: ")
        .removeprefix("RankError: ")
    )
    return text if len(text) <= 300 else text[:297] + "…"
