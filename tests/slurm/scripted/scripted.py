"""A backend whose fine-tunes do what a test tells them, once per attempt: what is hard to wait for
on a real cluster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mosweep.backends.base import Backend
from mosweep.core.types import Stage
from mosweep.core.work import FINETUNE, Context, Kind, Work
from mosweep.stages.base import TrialConfig


@dataclass(frozen=True)
class ScriptedFinetune(Work):
    """``play``: what to do at the first attempt, the second …, the last again and again; every
    attempt leaves a line in ``runs``.
    """

    play: str
    seed: int
    runs: str

    kind: ClassVar[Kind] = FINETUNE
    version: ClassVar[int] = 1

    async def run(self, context: Context) -> Mapping[str, Any]:
        path = Path(self.runs) / f"{self.play}-{self.seed}"
        with open(path, "a") as file:
            file.write(
                f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{os.environ.get('SLURM_ARRAY_TASK_ID')} "
                f"{os.getpid()}\n"
            )
        acts = self.play.split("-")
        act = acts[min(len(path.read_text().splitlines()), len(acts)) - 1]
        if act == "hang":
            time.sleep(600)
        if act == "hog":
            held = bytearray(300 << 20)
            time.sleep(20 + len(held) * 0)
        if act == "raise":
            raise ValueError("it was told to")
        if act == "quit":
            os._exit(0)  # as if all were well, and nothing is left
        if act.startswith("sleep"):
            time.sleep(float(act.removeprefix("sleep")))
        return {"model_id": f"scripted/{self.play}", "mean": 0.5, "item_sd": 0.1}


@dataclass(frozen=True)
class ScriptedBackend(Backend):
    play: str
    runs: str

    def finetune(self, trial: TrialConfig) -> Stage:
        work = ScriptedFinetune(self.play, trial.config.seed, self.runs)
        return Stage("finetune", work, resources=trial.resources("finetune"))
