"""How a backend is written: the class behind ``conf/backend/NAME.yaml``.

A backend is a frozen dataclass that subclasses ``Backend``. Its fields are the keys of the group
(``backend.<field>``). It may live in any importable module: the group's ``_target_`` names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mosweep.core.checks import Check
from mosweep.core.types import Stage
from mosweep.stages.base import TrialConfig
from mosweep.stages.model import ModelSource

__all__ = ["Backend", "HostedBase"]


@dataclass(frozen=True)
class HostedBase:
    """A base model that evaluations reach through Inspect rather than by its weights.

    ``source`` names it, ``arguments`` are Inspect's for it, ``base_url`` is where it is served.
    """

    source: ModelSource
    arguments: Mapping[str, Any]
    base_url: str | None


class Backend(ABC):
    """How a model is fine-tuned.

    - ``section``: the top-level key of its native settings (``<section>.<path>``), if it has any;
      ``section_help`` says in one sentence what they are.
    - ``takes``: the keys of the shared groups that it reads, such as ``lora.rank`` or ``optim.*``.
      A trial never drops a setting: one that nobody takes is an error, and ``hints`` may say what
      to do instead.
    - ``stands_in``: it pretends to be any other backend, and so takes every native section.
    """

    section: ClassVar[str | None] = None
    section_help: ClassVar[str] = ""
    stands_in: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("lora.*", "optim.*", "seed")
    hints: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def finetune(self, trial: TrialConfig) -> Stage:
        """The fine-tuning stage of a trial, with what it needs.

        Raises ``ConfigError`` for a setting that cannot work.
        """

    def check_native(self, trial: TrialConfig) -> None:  # noqa: B027 - most have nothing to check
        """Check the native settings alone, for a dry run. Raises ``ConfigError``."""

    def hosted_base(self, trial: TrialConfig) -> HostedBase | None:
        """How the untouched base model is reached where its weights are not on this machine."""
        return None

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """What ``doctor`` says of it."""
        return ()
