"""The protocol of backends that train in rounds, and the choice of a round's examples."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mosweep.backends.base import Backend
from mosweep.core.samples import SAMPLES, read_samples
from mosweep.core.types import Stage
from mosweep.core.work import Context
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.datasets.rounds import Selection, failed_groups, select
from mosweep.stages.base import TrialConfig
from mosweep.stages.loop.schedule import Schedule

__all__ = ["STATE", "HardExamples", "Round", "RoundBackend", "chosen_examples"]

#: The part of a round's folder that only the next round reads.
STATE = "state"


@dataclass(frozen=True)
class HardExamples:
    """How the next round treats the examples of groups whose evaluation samples failed.

    A sample fails if it scores below ``threshold``. See ``mosweep.datasets.rounds``.
    """

    mode: Literal["boost", "mine"]
    factor: float | None
    by: Sequence[str] | None
    metric: str | None
    threshold: float


@dataclass(frozen=True)
class Round:
    """The training of round ``number``: ``steps`` optimizer steps.

    The earlier rounds took ``before`` steps. ``schedule`` has the learning rate of every step of
    the whole run, with this round's peak. ``hard`` is ``None`` in the first round.
    """

    number: int
    steps: int
    before: int
    schedule: Schedule
    hard: HardExamples | None = None

    @property
    def rates(self) -> list[float]:
        """The learning rate of each of this round's steps."""
        return [self.schedule.lr(self.before + step) for step in range(1, self.steps + 1)]


class RoundBackend(Backend):
    """A backend that can train in rounds.

    ``loop_settings`` maps settings of the loop (``batch_size``, ``max_seq_length``,
    ``use_recommended_lr``) to the equivalent native settings in ``section``.
    """

    loop_settings: ClassVar[Mapping[str, str]] = {}

    @property
    def merges(self) -> bool:
        """Whether the chosen round's adapter is also merged into a full model."""
        return False

    @abstractmethod
    def peak_lr(self, trial: TrialConfig) -> float:
        """The peak learning rate of the trial's fine-tune, which is also the first round's."""

    @abstractmethod
    def round(self, trial: TrialConfig, this: Round, previous: Stage | None) -> Stage:
        """The stage that trains ``this`` round.

        It continues from the adapter, the optimizer's state and the position in the data of
        ``previous``. Its work has the kind ``ROUND`` and records the facts of a fine-tune. Its
        inputs include ``previous`` if the stage needs it. After the first round they also include
        the evaluation of the round before, as ``feedback`` for ``chosen_examples``.
        """


async def chosen_examples(
    context: Context, this: Round, data: Path, count: int, seed: int
) -> tuple[JSONLDataset, dict[str, Any]]:
    """The ``count`` examples of this round in order, and the facts to record under ``data``.

    They are chosen from the file ``data``.
    """
    loaded = await JSONLDataset.load(data)
    examples = loaded.unique()
    previous, feedback = context.inputs.get("previous"), context.inputs.get("feedback")
    position = int(previous.facts["data"]["position"]) if previous else 0
    if this.hard is None or feedback is None:
        chosen = select(examples.samples, count, seed=seed, position=position)
    else:
        hard, samples = this.hard, read_samples(feedback.folder / SAMPLES)
        scorer = hard.metric.rpartition("/")[0] if hard.metric else None
        groups = failed_groups(samples, hard.threshold, scorer=scorer, names=hard.by)
        chosen = await asyncio.to_thread(
            select,
            examples.samples,
            count,
            seed=seed,
            position=position,
            number=this.number,
            groups=groups,
            mode=hard.mode,
            factor=hard.factor or 1.0,
        )
    return JSONLDataset(examples.samples[row] for row in chosen.rows), _data_facts(
        chosen, len(examples), len(loaded) - len(examples)
    )


def _data_facts(chosen: Selection, rows: int, duplicates: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "rows": rows,
        "duplicates": duplicates,
        "examples": len(chosen.rows),
        "position": chosen.position,
    }
    return facts | ({"hard": chosen.hard, "groups": dict(chosen.groups)} if chosen.groups else {})
