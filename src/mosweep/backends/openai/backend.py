"""``backend=openai``: fine-tunes at OpenAI.

One process polls all jobs of a sweep. A restarted sweep attaches to its jobs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mosweep.backends.base import Backend, check_beta
from mosweep.backends.openai.training import CLOSING, MAX_SEED, Method, refusal
from mosweep.backends.openai.works import OpenAIFinetune, settings_of
from mosweep.core.checks import Check, check_libraries
from mosweep.core.errors import ConfigError
from mosweep.core.fingerprint import unkeyed
from mosweep.core.schema import between, build
from mosweep.core.types import Stage
from mosweep.stages.base import TrialConfig
from mosweep.stages.data import check_rows, data_stage

__all__ = ["OpenAIBackend"]

#: Inspect's prefix for models of OpenAI.
PROVIDER = "openai/"


@dataclass(frozen=True)
class OpenAIBackend(Backend):
    """The group ``backend=openai``. OpenAI chooses the hyperparameters that are ``None``.

    The API key is read from ``OPENAI_API_KEY``.
    """

    takes: ClassVar[tuple[str, ...]] = ("optim.epochs", "optim.batch_size", "seed")
    hints: ClassVar[Mapping[str, str]] = {
        "lora.*": "backend=openai has no such setting: OpenAI decides how it adapts weights",
        "optim.lr": "OpenAI has no learning rate; set backend.learning_rate_multiplier",
        "optim.*": "backend=openai has no such setting; it has optim.epochs and optim.batch_size",
    }

    method: Method = "supervised"
    """``supervised``, or ``dpo`` on rows with the dispreferred answer in ``rejected``."""
    learning_rate_multiplier: float | None = field(default=None, metadata=between(gt=0))
    """Replaces ``optim.lr``."""
    beta: float | None = field(default=None, metadata=between(gt=0, le=2))
    """For ``dpo``: the weight of the reference model."""
    validation: bool = False
    """Also measure the loss on the data set's ``validation.jsonl``."""
    suffix: str | None = field(default="mosweep", metadata=unkeyed)
    """Part of the fine-tuned model's name."""
    max_concurrent: int = field(default=8, metadata={**between(ge=1), **unkeyed})
    """Jobs that run at the same time."""
    poll_s: float = field(default=20.0, metadata={**between(gt=0), **unkeyed})
    """Seconds between polls of a job."""
    patience_min: float = field(default=30.0, metadata={**between(gt=0), **unkeyed})
    """Minutes that OpenAI may be unreachable before a job fails."""

    def __post_init__(self) -> None:
        check_beta(self.beta, self.method)
        if self.suffix is not None and not 1 <= len(self.suffix) <= 64:
            raise ConfigError("suffix", self.suffix, "must have 1 to 64 characters")

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """The API key, the libraries, and the end date of OpenAI's fine-tuning."""
        return _checks()

    def finetune(self, trial: TrialConfig) -> Stage:
        """The fine-tuning stage of a trial.

        Raises ``ConfigError`` for a setting that OpenAI does not accept.
        """
        config = trial.config
        _check_seed(config.seed)
        given = {
            "n_epochs": config.optim.epochs,
            "batch_size": config.optim.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            **({"beta": self.beta} if self.method == "dpo" else {}),
        }
        try:
            build(settings_of(self.method), given, "optim")
        except ConfigError as error:
            raise ConfigError(
                error.key.replace("n_epochs", "epochs"),
                error.value,
                f"{error.problem} (OpenAI's limit)",
            ) from None
        data = data_stage(trial)
        check_rows(trial, data, refusal)
        work = OpenAIFinetune(
            model=_model(trial),
            method=self.method,
            settings=given,
            seed=config.seed,
            validation=self.validation,
            suffix=self.suffix,
            max_concurrent=self.max_concurrent,
            poll_s=self.poll_s,
            patience_min=self.patience_min,
        )
        return Stage(
            "finetune",
            work,
            {"data": data},
            trial.resources("finetune", computes=False),
        )


def _checks() -> Iterable[Check]:
    """The checks. Without a key none fails, because OpenAI may be unused."""
    key = os.environ.get("OPENAI_API_KEY")
    service = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    yield Check("OpenAI", None, f"OPENAI_API_KEY is {'set' if key else 'not set'}; {service}")
    libraries = check_libraries("backend=openai", ("openai", "tenacity"), "openai")
    works = None if libraries.works and not key else libraries.works
    yield Check(libraries.name, works, f"{libraries.finding}. {CLOSING}")


def _model(trial: TrialConfig) -> str:
    """OpenAI's name for the trial's base model."""
    model = trial.config.model
    if not (model.inspect or "").startswith(PROVIDER):
        problem = (
            f"backend=openai fine-tunes models of OpenAI: choose one with inspect: {PROVIDER}…, "
            "such as model=gpt-4.1-mini"
        )
        raise ConfigError("model", model.name, problem)
    assert model.inspect is not None
    return model.inspect.removeprefix(PROVIDER)


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError("seed", seed, f"must be ≥ 0 and ≤ {MAX_SEED} (OpenAI's limit)")
