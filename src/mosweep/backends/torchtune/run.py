"""A run of a torchtune recipe: its status, its result and its last error.

A run has a folder with ``torchtune.yaml`` (the native config that was run), ``torchtune.log``,
``losses.json`` (``[[step, loss], …]``), ``adapter/`` in PEFT's layout, optionally ``merged/``, and
``run/``, from which another process can attach to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from mosweep.backends.torchtune.detached import Detached
from mosweep.backends.training import RunStatus
from mosweep.core.causes import raised_in
from mosweep.core.errors import StageError

__all__ = ["TorchtuneResult", "TorchtuneTrainingRun", "last_error"]


@dataclass(frozen=True)
class TorchtuneResult:
    """The measurements of a finished run.

    - ``seconds``: wall time of the whole run
    - ``train_seconds``: wall time of the recipe
    - ``resumed_at_step``: the step that it resumed from, or 0
    - ``world_size``: the number of processes that trained
    - ``warning``: how many samples were cut off, if any

    The losses include all steps from the first. The times exclude earlier attempts.
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
    warning: str | None = None


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
        """The folder of the merged model, or else of the adapter.

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
        """Wait until training ends and return ``model_id``.

        Raises ``StageError`` with the log and its last error.
        """
        try:
            await self._wait_for_end()
        finally:
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None
        if self.model_id is None:
            raise StageError(self._failure(), str(self.log))
        return self.model_id

    async def _wait_for_end(self) -> None:
        pause = 0.02
        while await self.refresh() in ("queued", "running"):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def result(self) -> TorchtuneResult:
        """The measurements of the finished run."""
        known = json.loads((self.folder / "run" / "result.json").read_text())
        losses = tuple(
            (int(step), float(loss))
            for step, loss in json.loads((self.folder / "losses.json").read_text())
        )
        spec = json.loads((self.folder / "run" / "spec.json").read_text())
        seconds = (self.folder / "run" / "result.json").stat().st_mtime - spec["started"]
        return TorchtuneResult(losses=losses, seconds=round(seconds, 3), **known)

    async def cancel(self) -> None:
        """Stop the process and its children."""
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


_ERROR = re.compile(
    r"^(?:[\w.]+(?:Error|Exception|Interrupt|Exit)\b.*"
    r"|.*\b(?:error|Error|ERROR|Killed|Segmentation fault)\b.*)$"
)


#: Exceptions whose name says nothing about the cause.
_WRAPPER = re.compile(r"^(?:RuntimeError|(?:\w+\.)?RankError): ")


def last_error(log: Path) -> str | None:
    """The line of a log that says what went wrong.

    The line of an exception takes precedence over a line that only mentions an error.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            text = file.read().decode(errors="replace").replace("\r", "\n")
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in text.split("\n")]
    if (raised := raised_in(text)) and not any(line.startswith("RankError: ") for line in lines):
        return _WRAPPER.sub("", raised)
    named = [
        line
        for line in lines
        if re.match(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b(?::|$)", line)
    ]
    errors = [line for line in lines if _ERROR.match(line)]
    # srun's lines do not contain the reason.
    candidates = named or [line for line in errors if not line.startswith("srun: ")] or errors
    if not candidates:
        return None
    text = _WRAPPER.sub("", candidates[-1])
    return text if len(text) <= 300 else text[:297] + "…"
