"""``backend=torchtune``: LoRA fine-tunes with torchtune's stock recipes.

Each GPU in ``resources`` gets one process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mosweep.backends.torchtune import config as torchtune_config
from mosweep.backends.torchtune.rows import refusal, settings_of
from mosweep.backends.torchtune.works import TorchtuneFinetune, TorchtuneRound
from mosweep.core.checks import Check, check_libraries, version_of
from mosweep.core.errors import ConfigError, choices
from mosweep.core.fingerprint import unkeyed
from mosweep.core.paths import cached_here, own_and_shipped
from mosweep.core.types import Stage
from mosweep.stages.base import TrialConfig
from mosweep.stages.data import check_rows, data_stage
from mosweep.stages.loop.backend import Round, RoundBackend
from mosweep.stages.model import ModelSource, base_model

__all__ = ["TorchtuneBackend", "native_config"]


#: The top-level key of native settings.
SECTION = "torchtune"


#: Settings of a recipe that a loop replaces, and what to set instead.
_REPLACED = {
    "epochs": "set loop.max_rounds and loop.steps_per_round",
    "max_steps_per_epoch": "set loop.steps_per_round",
    "lr_scheduler": "the loop's own schedule sets every step (loop.lr_decay, loop.min_lr, "
    "loop.warmup_steps)",
    "shuffle": "rounds read one shuffled sequence (seed)",
}


@dataclass(frozen=True)
class TorchtuneBackend(RoundBackend):
    """The group ``backend=torchtune``."""

    section: ClassVar[str] = SECTION
    section_help: ClassVar[str] = (
        "Any key of torchtune's own configuration: ``torchtune.optimizer.betas=[0.9,0.95]``."
    )
    loop_settings: ClassVar[Mapping[str, str]] = {
        "use_recommended_lr": "optimizer.lr",
        "batch_size": "batch_size",
        "max_seq_length": "tokenizer.max_seq_len",
    }

    recipe: str = "lora_finetune_single_device"
    """The name of torchtune's recipe. With ``resources.gpus`` above 1 its distributed variant
    runs."""
    config: str | None = None
    """Native defaults: a path, or a name under ``recipes/torchtune/``. By default the model's
    recipe."""
    python: str | None = field(default=None, metadata=unkeyed)
    """A Python interpreter that has torchtune. By default the current one."""
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=unkeyed)
    """The device to train on."""
    merged: bool = True
    """Also write the full model with the adapter merged in."""
    environment: Mapping[str, str] | None = field(default=None, metadata=unkeyed)
    """Extra environment variables for the training process."""

    def finetune(self, trial: TrialConfig) -> Stage:
        """The fine-tuning stage of a trial, which depends on its data set and base model.

        Raises ``ConfigError`` if its GPUs cannot share a batch evenly.
        """
        model_stage, source = base_model(trial)
        config = native_config(trial, self.config)
        needs = {"data": _data(trial, config)} | ({"model": model_stage} if model_stage else {})
        resources = trial.resources("finetune")
        torchtune_config.share(config, resources.gpus or 1, resources.nodes or 1)
        work = TorchtuneFinetune(
            config={key: value for key, value in config.items() if key != "device"},
            merged=self.merged,
            **self._common(trial, config, source),
        )
        return Stage("finetune", work, needs, resources)

    def check_native(self, trial: TrialConfig) -> None:
        """Read the recipe and apply the trial's settings."""
        native_config(trial, self.config)

    @property
    def merges(self) -> bool:
        """Whether fine-tunes include a merged model: ``merged``."""
        return self.merged

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """The libraries, and the version of torchao."""
        names = ("torch", "torchtune", "torchao", "torchdata", "transformers")
        yield check_libraries("backend=torchtune", names, "torchtune")
        yield _torchao()

    def peak_lr(self, trial: TrialConfig) -> float:
        """``optim.lr``, or else the recipe's."""
        return float(native_config(trial, self.config)["optimizer"]["lr"])

    def round(self, trial: TrialConfig, this: Round, previous: Stage | None) -> Stage:
        """A round of a loop."""
        loop = trial.config.loop
        if self.recipe not in torchtune_config.DISTRIBUTED:
            raise ConfigError(
                "backend.recipe",
                self.recipe,
                f"cannot train in rounds; valid: {', '.join(torchtune_config.DISTRIBUTED)}",
            )
        if loop.renderer is not None:
            raise ConfigError(
                "loop.renderer",
                loop.renderer,
                "applies to backend=tinker only; torchtune uses the recipe's tokenizer",
            )
        for path, value in trial.native(SECTION).items():
            if (name := path.partition(".")[0]) in _REPLACED:
                raise ConfigError(
                    f"torchtune.{path}", value, f"does not apply in a loop: {_REPLACED[name]}"
                )
        model_stage, source = base_model(trial)
        config = native_config(trial, self.config)
        needs = (
            {"data": _data(trial, config)}
            | ({"model": model_stage} if model_stage else {})
            | ({"previous": previous} if previous else {})
        )
        if config["dataset"].get("packed"):
            raise ConfigError(
                "torchtune.dataset.packed",
                "true",
                "a loop selects examples, which packing does not support; set it to false",
            )
        config = torchtune_config.set_path(config, "optimizer.lr", this.schedule.peak)
        if loop.max_seq_length:
            config = torchtune_config.set_path(config, "tokenizer.max_seq_len", loop.max_seq_length)
        resources = trial.resources("finetune")
        torchtune_config.share(config, resources.gpus or 1, resources.nodes or 1)
        work = TorchtuneRound(
            config={
                key: value for key, value in config.items() if key not in ("device", *_REPLACED)
            },
            plan=this,
            seed=trial.config.seed,
            **self._common(trial, config, source),
        )
        return Stage("round", work, needs, resources)

    def _common(
        self, trial: TrialConfig, config: Mapping[str, Any], source: ModelSource | None
    ) -> dict[str, Any]:
        """The fields that all works on torchtune share, except ``config``."""
        device = None if self.device == "auto" else self.device
        return {
            "recipe": self.recipe,
            "source": source,
            "model": trial.config.model.name,
            "python": self.python or sys.executable,
            "device": device or config.get("device"),
            "environment": self.environment or {},
        }


def _data(trial: TrialConfig, config: Mapping[str, Any]) -> Stage:
    """The stage of the data set.

    Raises ``ConfigError`` for a row of the user's own file that torchtune does not take.
    """
    stage = data_stage(trial)
    check_rows(trial, stage, refusal, *settings_of(config))
    return stage


def native_config(trial: TrialConfig, path: str | None = None) -> dict[str, Any]:
    """The recipe's native configuration with the trial's settings.

    ``lora``, ``optim`` and ``seed`` override the recipe, and ``torchtune.<path>`` overrides those.
    A setting that is ``null`` keeps the recipe's value. If only ``lora.rank`` is set, the alpha is
    2·rank.
    """
    config = trial.config
    lora, optim = config.lora, config.optim
    layer = {
        "model.lora_rank": lora.rank,
        "model.lora_alpha": lora.in_force.alpha,
        "model.lora_dropout": lora.dropout,
        "optimizer.lr": optim.lr,
        "optimizer.weight_decay": optim.weight_decay,
        "lr_scheduler.num_warmup_steps": optim.warmup_steps,
        "batch_size": optim.batch_size,
        "epochs": optim.epochs,
        "max_steps_per_epoch": optim.max_steps_per_epoch,
        "seed": config.seed,
    }
    given = {key: value for key, value in layer.items() if value is not None}
    recipe = _recipe(path or config.model.recipe or config.model.name)
    return torchtune_config.merge(torchtune_config.merge(recipe, given), trial.native(SECTION))


@cached_here
def _recipe(name: str) -> dict[str, Any]:
    """The recipe ``name``: a path, or ``recipes/torchtune/<name>.yaml``, your own or shipped."""
    if name.endswith((".yaml", ".yml")):
        return torchtune_config.load_recipe(name)
    folders = [folder / "torchtune" for folder in own_and_shipped("recipes")]
    for folder in folders:
        if (folder / f"{name}.yaml").exists():
            return torchtune_config.load_recipe(folder / f"{name}.yaml")
    valid = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    raise ConfigError(
        "model.recipe", name, f"no file recipes/torchtune/{name}.yaml; {choices(name, valid)}"
    )


def _torchao() -> Check:
    version = version_of("torchao")
    if version is None or version_of("torchtune") is None:
        return Check("torchao", None, "not installed")
    minor = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    works = (0, 13) <= minor < (0, 16)
    problem = f"{version}: torchtune 0.6.1 supports 0.13 to 0.15 only"
    return Check("torchao", works, version if works else problem)
