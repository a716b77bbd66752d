"""The base class of backends, which ``conf/backend/NAME.yaml`` configures.

A backend is a frozen dataclass that subclasses ``Backend``. Its fields are the keys of the group
(``backend.<field>``). The group's ``_target_`` names the class, in any importable module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mosweep.core.checks import Check
from mosweep.core.errors import ConfigError
from mosweep.core.types import Stage
from mosweep.stages.base import TrialConfig
from mosweep.stages.model import ModelSource

__all__ = ["Backend", "HostedBase", "check_beta"]


@dataclass(frozen=True)
class HostedBase:
    """A base model behind an API. Evaluations call it through Inspect and do not load its weights.

    ``source`` names the model, ``arguments`` are Inspect's model arguments, and ``base_url`` is
    the address of the server.
    """

    source: ModelSource
    arguments: Mapping[str, Any]
    base_url: str | None


class Backend(ABC):
    """A way to fine-tune models.

    - ``section``: the top-level key of its native settings (``<section>.<path>``), if it has any.
      ``section_help`` describes them in one sentence.
    - ``takes``: the keys of the shared groups that it reads, such as ``lora.rank`` or ``optim.*``.
      A key that nothing reads is an error. ``hints`` may say what to use instead.
    - ``stands_in``: it imitates any other backend, so it accepts every native section.
    """

    section: ClassVar[str | None] = None
    section_help: ClassVar[str] = ""
    stands_in: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("lora.*", "optim.*", "seed")
    hints: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def finetune(self, trial: TrialConfig) -> Stage:
        """The fine-tuning stage of a trial, with the stages it depends on.

        Raises ``ConfigError`` for an invalid setting.
        """

    def check_native(self, trial: TrialConfig) -> None:  # noqa: B027 - most have nothing to check
        """Check only the native settings, for a dry run. Raises ``ConfigError``."""

    def hosted_base(self, trial: TrialConfig) -> HostedBase | None:
        """The base model behind an API. ``None`` if evaluations load its weights."""
        return None

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """The checks of this backend that ``mosweep doctor`` runs."""
        return ()


def check_beta(beta: float | None, method: str) -> None:
    """Raise ``ConfigError`` if ``beta``, the reference model's weight, is set without DPO."""
    if beta is not None and method != "dpo":
        raise ConfigError("beta", beta, f"requires method=dpo, not method={method}")
