"""How an evaluator is written: the class behind ``conf/eval/NAME.yaml``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from mosweep.core.checks import Check
from mosweep.core.types import Stage
from mosweep.stages.base import TrialConfig

__all__ = ["Evaluation"]


class Evaluation(ABC):
    """How a model is evaluated. Subclass it as a frozen dataclass with a field ``tasks``.

    ``section``, ``section_help``, ``takes`` and ``stands_in`` are as those of
    ``mosweep.backends.base.Backend``.
    """

    section: ClassVar[str | None] = None
    section_help: ClassVar[str] = ""
    stands_in: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()

    #: The evaluation tasks; ``None`` is the trial's own.
    tasks: Sequence[str] | None

    @abstractmethod
    def stages(self, trial: TrialConfig, tuned: Stage | None) -> list[Stage]:
        """One stage per evaluation task, of the model that ``tuned`` leaves.

        ``tuned`` is ``None`` for the untouched base model. How a trained model is reached is in the
        facts of ``tuned``: ``ModelFacts.access``.
        """

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """What ``doctor`` says of it."""
        return ()
