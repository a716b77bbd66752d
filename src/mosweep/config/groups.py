"""The typed configuration of one trial: one dataclass per config group.

Field names are the keys of ``conf/`` and of the command line. Groups whose fields depend on the
choice (``backend``, ``eval``) name their class in ``_target_``. Derived values (``lora.alpha =
2·rank``) are computed here, unless they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from mosweep.config.loop import Loop
from mosweep.core.errors import ConfigError
from mosweep.core.fingerprint import unkeyed
from mosweep.core.schema import between
from mosweep.models.tiny import TinyArchitecture

__all__ = [
    "TOP_LEVEL",
    "Budget",
    "Config",
    "Contamination",
    "Dataset",
    "Experiment",
    "Lora",
    "Model",
    "Optim",
    "StoreConfig",
    "Task",
    "Tracking",
]


#: Metadata of a field that enters the key with its resolved value, not as it is written.
_RESOLVED = {**unkeyed, "resolved": True}


@dataclass(frozen=True)
class Model:
    """The group ``model``: the base model that a trial starts from.

    Give one source: ``generate``, ``path``, ``hub`` or ``inspect``.
    """

    name: str
    """The model's name in tables, folders and on the command line."""
    recipe: str | None = None
    """The file ``recipes/<backend>/<recipe>.yaml`` with the native defaults; null: the name."""
    generate: TinyArchitecture | None = None
    """Sizes of a tiny model that is generated and needs no download."""
    generate_seed: int = 0
    """Seed of a generated model. Another seed gives another base model."""
    path: str | None = None
    """A folder in Hugging Face's layout. It may be relative to ``model_dir`` or to the working
    folder.
    """
    hub: str | None = None
    """A model on the Hugging Face hub, such as ``Qwen/Qwen3-8B``. It is downloaded when needed."""
    revision: str | None = None
    """The branch, tag or commit on the hub."""
    inspect: str | None = None
    """Inspect's name of a model behind an API, such as ``openai/gpt-4o-mini``."""
    tinker: str | None = field(default=None, metadata=_RESOLVED)
    """Tinker's name for the model; null: its hub id."""
    renderer: str | None = field(default=None, metadata=_RESOLVED)
    """The renderer of tinker-cookbook that formats chats; null: the recommended one."""

    def __post_init__(self) -> None:
        sources = [
            name
            for name in ("generate", "path", "hub", "inspect")
            if getattr(self, name) is not None
        ]
        if len(sources) > 1:
            raise ConfigError(
                "path", self.path, f"give one source of the model, not {' and '.join(sources)}"
            )
        if self.revision is not None and self.hub is None:
            raise ConfigError("revision", self.revision, "needs a model with a hub id (model.hub)")


@dataclass(frozen=True)
class Dataset:
    """The group ``dataset``: the data set that a trial is trained on."""

    name: str
    """The data set's name. The task's ``data.py`` builds it, unless ``path`` is given."""
    path: str | None = None
    """Your own JSONL file, or folder with ``train.jsonl``."""


@dataclass(frozen=True)
class Task:
    """The group ``task``: what is trained and evaluated."""

    name: str
    """The folder ``tasks/<name>/`` with ``data.py``, ``eval.py`` and ``eval.yaml``."""


@dataclass(frozen=True)
class Lora:
    """The group ``lora``: low-rank adaptation (Hu et al. 2021, arXiv:2106.09685).

    ``None`` leaves a value to the backend's recipe.
    """

    rank: int | None = field(default=None, metadata=between(ge=1))
    """Rank of the adapter; null: as the recipe says."""
    alpha: float | None = field(default=None, metadata=between(gt=0))
    """Scale of the adapter; null: twice a given rank, else as the recipe says."""
    dropout: float | None = field(default=None, metadata=between(ge=0, lt=1))
    """Share of the adapter's inputs that are dropped in training; null: as the recipe says."""

    @cached_property
    def in_force(self) -> Lora:
        """The same adapter with ``alpha`` filled in: twice a given rank, unless it is given."""
        return (
            replace(self, alpha=2.0 * self.rank)
            if self.alpha is None and self.rank is not None
            else self
        )


@dataclass(frozen=True)
class Optim:
    """The group ``optim``: how a fine-tune is optimised.

    ``None`` leaves a value to the backend's recipe.
    """

    lr: float | None = field(default=None, metadata=between(gt=0))
    """Peak learning rate; null: as the recipe says."""
    batch_size: int | None = field(default=None, metadata=between(ge=1))
    """Samples in one optimizer step, over all GPUs; null: as the recipe says."""
    epochs: int | None = field(default=None, metadata=between(ge=1))
    """Passes over the training data; null: as the recipe says."""
    max_steps_per_epoch: int | None = field(default=None, metadata=between(ge=1))
    """Optimizer steps after which an epoch ends early; null: none."""
    warmup_steps: int | None = field(default=None, metadata=between(ge=0))
    """Steps in which the learning rate rises to its peak; null: as the recipe says."""
    weight_decay: float | None = field(default=None, metadata=between(ge=0))
    """Weight decay of the optimizer; null: as the recipe says."""


@dataclass(frozen=True)
class Experiment:
    """The group ``experiment``: which sweep a launch belongs to."""

    name: str | None = None
    """The sweep's name. Its folder is ``multirun/<name>``; the same name continues the sweep."""
    description: str | None = None
    """A description of the experiment."""

    def __post_init__(self) -> None:
        if self.name is not None and (
            self.name.startswith(".") or "/" in self.name or not self.name.strip()
        ):
            raise ConfigError("name", self.name, "must be a plain folder name")


@dataclass(frozen=True)
class Tracking:
    """The group ``tracking``: the trackers that receive a copy of the results."""

    recorder: Literal["mlflow", "wandb", "mlflow+wandb", "none"] = "mlflow"
    """The trackers to use."""
    uri: str | None = None
    """MLflow's tracking URI; null: an SQLite file in mosweep's home."""
    project: str = "mosweep"
    """The project at W&B."""
    entity: str | None = None
    """The team or user at W&B; null: your default there."""
    mode: Literal["online", "offline"] | None = None
    """W&B's mode. ``offline`` writes runs below mosweep's home, for ``wandb sync``."""

    @property
    def recorders(self) -> list[str]:
        """The names of the recorders. Empty for ``none``."""
        return [] if self.recorder == "none" else self.recorder.split("+")


@dataclass(frozen=True)
class StoreConfig:
    """The group ``store``: where results are kept."""

    dir: str | None = None
    """The store's folder; null: ``store`` in mosweep's home (``$MOSWEEP_HOME``)."""


@dataclass(frozen=True)
class Budget:
    """The group ``budget``: limits of a launch. ``None`` is no limit.

    A launch that may exceed a limit, by the records of similar stages, is refused. A launch that
    turns out to need more than expected is stopped before it exceeds a limit.
    """

    gpu_hours: float | None = field(default=None, metadata=between(ge=0))
    """GPU-hours that a launch may take; null: no limit."""
    usd: float | None = field(default=None, metadata=between(ge=0))
    """US dollars that providers may charge for a launch's tokens; null: no limit."""


@dataclass(frozen=True)
class Contamination:
    """The group ``contamination``: evaluation items that were in the training data."""

    max_overlap: float | None = field(default=None, metadata=between(ge=0, le=1))
    """Share of evaluation items that may occur in the training data before scores are marked;
    null: any.
    """


@dataclass(frozen=True)
class Config:
    """The configuration of one trial.

    ``transforms`` are other sections that name a class in ``_target_``, or are ``null``.
    ``native`` has all other sections: the native settings of backends and evaluators.
    """

    model: Model
    """The base model."""
    dataset: Dataset
    """The training data."""
    task: Task
    """What is trained and evaluated."""
    backend: Any
    """How a model is fine-tuned."""
    eval: Any
    """How a model is evaluated."""
    lora: Lora = Lora()
    """The adapter."""
    optim: Optim = Optim()
    """The optimisation."""
    loop: Loop = field(default=Loop())
    """Fine-tuning in rounds."""
    seed: int = field(default=0, metadata=between(ge=0))
    """Seed of the fine-tune, a factor like any other: ``seed=0,1,2``."""
    control: bool = field(default=False, metadata=unkeyed)
    """Evaluate the base model, without any fine-tune."""
    resources: Any = field(default=None, metadata=unkeyed)
    """The resources that stages request."""
    experiment: Experiment = field(default=Experiment(), metadata=unkeyed)
    """Which sweep a launch belongs to."""
    tracking: Tracking = field(default=Tracking(), metadata=unkeyed)
    """Where results are shown."""
    store: StoreConfig = field(default=StoreConfig(), metadata=unkeyed)
    """Where results are kept."""
    budget: Budget = field(default=Budget(), metadata=unkeyed)
    """Limits of a launch."""
    contamination: Contamination = field(default=Contamination(), metadata=unkeyed)
    """Evaluation items in the training data."""
    transforms: Mapping[str, Any] = field(default_factory=dict)
    """Stages between fine-tune and evaluation, each a group of its own."""
    native: Mapping[str, Any] = field(default_factory=dict)
    """Native settings of backends and evaluators, by section."""
    tasks_dir: str | None = field(default=None, metadata=unkeyed)
    """A folder with your own tasks; null: ``tasks/`` in the working folder."""
    data_dir: str | None = field(default=None, metadata=unkeyed)
    """A folder with your own data sets, ``<data_dir>/<dataset>/train.jsonl``."""
    model_dir: str | None = field(default=None, metadata=unkeyed)
    """A folder with your own models, for ``model.path``."""
    controls: Any = field(default=None, metadata=unkeyed)
    """Factors that are held constant, ``{lora.alpha: 32}``, or ``@file.json``."""
    treatments: Any = field(default=None, metadata=unkeyed)
    """Factors and their levels, ``{lora.rank: [4, 64]}``, a list of bundles, or ``@file.json``."""
    seeds: Any = field(default=None, metadata=unkeyed)
    """Levels of the factor ``seed``, ``[0, 1, 2]``, or their count."""
    setting: Any = field(default=None, metadata=unkeyed)
    """Data sets and evaluations that belong together, ``conf/setting/<name>.yaml``."""
    tags: Any = field(default=None, metadata=unkeyed)
    """With a setting: only the data sets and evaluations that have any of these tags."""
    run_control_trials: bool = field(default=True, metadata=unkeyed)
    """Add control trials, which evaluate base models: one per model, data set, task, evaluation."""
    primary_metric: str | None = field(default=None, metadata=unkeyed)
    """``<task>/<metric>``, the metric that reports and optimisers use first."""
    contrasts: Any = field(default=None, metadata=unkeyed)
    """Comparisons that the report makes, ``["lora.rank: 4 -> 64"]``; null: each level against the
    first.
    """
    delta: float | None = field(default=None, metadata={**between(gt=0), **unkeyed})
    """The smallest difference that matters, in units of the metric."""


#: The keys that a configuration may have besides native sections and transforms.
TOP_LEVEL = frozenset(section.name for section in fields(Config)) - {"native", "transforms"}
