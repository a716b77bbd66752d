"""The base class of evaluators: what stands behind ``conf/eval/NAME.yaml``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from mosweep.core.checks import Check
from mosweep.core.types import Stage
from mosweep.stages.base import TrialConfig

__all__ = ["Evaluation"]


class Evaluation(ABC):
    """A way to evaluate models. Subclass it as a frozen dataclass with a field ``tasks``.

    ``section``, ``section_help``, ``takes`` and ``stands_in`` mean the same as in
    ``mosweep.backends.base.Backend``.
    """

    section: ClassVar[str | None] = None
    section_help: ClassVar[str] = ""
    stands_in: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()

    #: The evaluation tasks. ``None`` stands for the trial's task.
    tasks: Sequence[str] | None

    @abstractmethod
    def stages(self, trial: TrialConfig, tuned: Stage | None) -> list[Stage]:
        """One stage per evaluation task, for the model that ``tuned`` produces.

        ``tuned`` is ``None`` for the base model. The facts of ``tuned`` say how to access a trained
        model: ``ModelFacts.access``.
        """

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """What ``mosweep doctor`` checks for this evaluator."""
        return ()
