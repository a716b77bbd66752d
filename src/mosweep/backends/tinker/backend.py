"""``backend=tinker``: LoRA fine-tunes with Tinker or a server with the same protocol.

One process drives all fine-tunes of a sweep.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from mosweep.backends.base import HostedBase, check_beta
from mosweep.backends.tinker.recipe import Method, TinkerRecipe, load_recipe
from mosweep.backends.tinker.works import TinkerFinetune, TinkerRound
from mosweep.core.checks import Check, check_libraries
from mosweep.core.errors import ConfigError, UserError
from mosweep.core.fingerprint import unkeyed
from mosweep.core.schema import between
from mosweep.core.types import Stage
from mosweep.datasets.preferences import check_preferences
from mosweep.models.learning_rate import recommended_lr
from mosweep.stages.base import TrialConfig
from mosweep.stages.data import ImportData, data_stage
from mosweep.stages.datafiles import training_file
from mosweep.stages.loop.backend import Round, RoundBackend
from mosweep.stages.model import ModelSource, base_model

__all__ = ["TinkerBackend"]


#: The top-level key of native settings.
SECTION = "tinker"


#: Settings of a recipe that a loop replaces, and what to set instead.
_REPLACED = {
    "epochs": "set loop.max_rounds and loop.steps_per_round",
    "max_steps_per_epoch": "set loop.steps_per_round",
    **dict.fromkeys(
        ("schedule", "warmup_steps", "min_learning_rate"), "the loop's own schedule sets every step"
    ),
}


@dataclass(frozen=True)
class TinkerBackend(RoundBackend):
    """The group ``backend=tinker``."""

    section: ClassVar[str] = SECTION
    section_help: ClassVar[str] = (
        "Any key of ``recipes/tinker/default.yaml``: ``tinker.learning_rate=1e-4``."
    )
    takes: ClassVar[tuple[str, ...]] = ("lora.rank", "lora.dropout", "optim.*", "seed")
    hints: ClassVar[Mapping[str, str]] = {
        "lora.alpha": "Tinker sets alpha itself: leave it null and set optim.lr"
    }
    loop_settings: ClassVar[Mapping[str, str]] = {
        "use_recommended_lr": "learning_rate",
        "batch_size": "batch_size",
        "max_seq_length": "max_length",
    }

    method: Method = "supervised"
    """``supervised``, or ``dpo`` on rows with the dispreferred answer in ``rejected``."""
    beta: float | None = field(default=None, metadata=between(gt=0))
    """For ``dpo``: the weight of the reference model. By default the recipe's value, 0.1."""
    config: str | None = None
    """The recipe: a path, or a name under ``recipes/tinker/``. By default the model's recipe, else
    ``default``."""
    base_url: str | None = field(default=None, metadata=unkeyed)
    """The address of the server. By default ``TINKER_BASE_URL``, else Tinker's own."""
    use_recommended_lr: bool = False
    """Use the learning rate that tinker-cookbook recommends for LoRA on the model."""
    max_concurrent: int = field(default=16, metadata={**between(ge=1), **unkeyed})
    """Fine-tunes that run at the same time."""
    patience_min: float = field(default=15.0, metadata={**between(gt=0), **unkeyed})
    """Minutes that Tinker may be unreachable before a fine-tune fails."""

    def __post_init__(self) -> None:
        check_beta(self.beta, self.method)
        if self.use_recommended_lr and self.method == "dpo":
            raise ConfigError("use_recommended_lr", "true", _SUPERVISED_LR)

    def finetune(self, trial: TrialConfig) -> Stage:
        """The fine-tuning stage of a trial, which depends on its data set and base model."""
        model_stage, source = base_model(trial)
        work = TinkerFinetune(
            self.model(trial),
            self.renderer(trial),
            self.recipe(trial),
            source,
            **self._unkeyed,
        )
        needs = {"data": self.data(trial)} | ({"model": model_stage} if model_stage else {})
        return Stage("finetune", work, needs, trial.resources("finetune", computes=False))

    def check_native(self, trial: TrialConfig) -> None:
        """Read the recipe and apply the trial's settings."""
        self.recipe(trial)

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """The API key, the server and the libraries."""
        key = os.environ.get("TINKER_API_KEY")
        service = os.environ.get("TINKER_BASE_URL", "Tinker's own address")
        yield Check("Tinker", None, f"TINKER_API_KEY is {'set' if key else 'not set'}; {service}")
        names = ("tinker", "tinker-cookbook", "transformers")
        libraries = check_libraries("backend=tinker", names, "tinker")
        yield replace(libraries, works=None) if libraries.works and not key else libraries

    def peak_lr(self, trial: TrialConfig) -> float:
        """``optim.lr``, or else the recipe's."""
        return self.recipe(trial).learning_rate

    def round(self, trial: TrialConfig, this: Round, previous: Stage | None) -> Stage:
        """A round of a loop."""
        for key, value in trial.native(SECTION).items():
            if key in _REPLACED:
                raise ConfigError(
                    f"tinker.{key}", value, f"does not apply in a loop: {_REPLACED[key]}"
                )
        if trial.config.loop.use_recommended_lr and self.method == "dpo":
            raise ConfigError("loop.use_recommended_lr", "true", _SUPERVISED_LR)
        model_stage, source = base_model(trial)
        loop, recipe = trial.config.loop, self.recipe(trial)
        recipe = replace(
            recipe,
            max_length=loop.max_seq_length or recipe.max_length,
            epochs=1,
            max_steps_per_epoch=None,
            schedule="constant",
            warmup_steps=0,
            min_learning_rate=0.0,
            learning_rate=this.schedule.peak,
        )
        renderer = loop.renderer or self.renderer(trial)
        work = TinkerRound(self.model(trial), renderer, recipe, source, **self._unkeyed, plan=this)
        needs = (
            {"data": self.data(trial)}
            | ({"model": model_stage} if model_stage else {})
            | ({"previous": previous} if previous else {})
        )
        return Stage("round", work, needs, trial.resources("finetune", computes=False))

    def data(self, trial: TrialConfig) -> Stage:
        """The stage of the data set.

        Raises ``ConfigError`` for a user's file that has no preferences, if ``method`` is ``dpo``.
        """
        stage = data_stage(trial)
        dataset, work = trial.config.dataset, stage.work
        if (
            self.method == "dpo"
            and isinstance(work, ImportData)
            and (problem := _no_preferences(work.path, work.digest))
        ):
            raise ConfigError(
                "dataset.path" if dataset.path else "dataset", dataset.path or dataset.name, problem
            )
        return stage

    @property
    def _unkeyed(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "max_concurrent": self.max_concurrent,
            "patience_min": self.patience_min,
        }

    def hosted_base(self, trial: TrialConfig) -> HostedBase | None:
        """The base model at Tinker, with the same renderer. ``None`` for a local model."""
        if trial.config.model.hub is None:
            return None
        source = ModelSource(inspect=f"tinker/{self.model(trial)}")
        return HostedBase(source, {"renderer": self.renderer(trial)}, self.base_url)

    def model(self, trial: TrialConfig) -> str:
        """The model's name at Tinker: ``model.tinker``, or else its hub id."""
        model = trial.config.model
        if model.revision is not None:
            raise ConfigError(
                "model.revision",
                model.revision,
                "Tinker offers one revision of each model: leave it null",
            )
        if name := model.tinker or model.hub:
            return name
        raise ConfigError(
            "model.tinker",
            None,
            f"backend=tinker requires Tinker's name for {model.name}, such as Qwen/Qwen3-8B",
        )

    def renderer(self, trial: TrialConfig) -> str:
        """``model.renderer``, or else the renderer that tinker-cookbook recommends."""
        if given := trial.config.model.renderer:
            return given
        from mosweep.backends.tinker.service import recommended_renderer

        return recommended_renderer(self.model(trial))

    def recipe(self, trial: TrialConfig) -> TinkerRecipe:
        """The recipe with the trial's settings.

        ``lora``, ``optim`` and ``seed`` override the recipe, and ``tinker.<key>`` overrides those.
        A setting that is ``null`` keeps the recipe's value.
        """
        config = trial.config
        lora, optim = config.lora, config.optim
        if lora.dropout:
            raise ConfigError(
                "lora.dropout", lora.dropout, "Tinker does not support dropout: leave it null, or 0"
            )
        if self.use_recommended_lr and optim.lr is not None:
            raise ConfigError(
                "optim.lr",
                optim.lr,
                "conflicts with backend.use_recommended_lr=true: set one of them",
            )
        if (
            self.use_recommended_lr
            and (own := trial.native(SECTION).get("learning_rate")) is not None
        ):
            raise ConfigError(
                "tinker.learning_rate",
                own,
                "conflicts with backend.use_recommended_lr=true: set one of them",
            )
        settings = {
            "rank": lora.rank,
            "beta": self.beta,
            "learning_rate": recommended_lr(self.model(trial), "backend.use_recommended_lr")
            if self.use_recommended_lr
            else optim.lr,
            "weight_decay": optim.weight_decay,
            "warmup_steps": optim.warmup_steps,
            "batch_size": optim.batch_size,
            "epochs": optim.epochs,
            "max_steps_per_epoch": optim.max_steps_per_epoch,
            "seed": config.seed,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        models = tuple(filter(None, (config.model.recipe, config.model.name)))
        return load_recipe(self.config, models, given, trial.native(SECTION), self.method)


#: Why a recommended learning rate is rejected.
_SUPERVISED_LR = (
    "tinker-cookbook recommends learning rates for supervised fine-tunes, not for method=dpo: "
    "set optim.lr"
)


@cache
def _no_preferences(source: str, digest: str) -> str | None:
    """Why the training data in ``source`` are not preferences, or ``None``.

    ``digest`` distinguishes versions of the file in the cache.
    """
    try:
        check_preferences(training_file(Path(source)))
    except UserError as error:
        return str(error)
    return None
