"""The typed configuration of one trial: one dataclass per config group.

Field names are the keys of ``conf/`` and of the command line. Groups whose fields depend on the
choice (``backend``, ``eval``) name their class in ``_target_``. Derived values (``lora.alpha =
2·rank``) are computed here, unless they are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from mosweep.core import schema
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
    "EvalOps",
    "Experiment",
    "Loop",
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
    """What the model is called in tables, folders and on the command line."""
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
    """What the experiment is about, for people."""

    def __post_init__(self) -> None:
        if self.name is not None and (
            self.name.startswith(".") or "/" in self.name or not self.name.strip()
        ):
            raise ConfigError("name", self.name, "must be a plain folder name")


@dataclass(frozen=True)
class Tracking:
    """The group ``tracking``: the trackers that show results besides the report."""

    recorder: Literal["mlflow", "wandb", "mlflow+wandb", "none"] = "mlflow"
    """Which trackers get a copy of the results."""
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
class EvalOps:
    """The section ``loop.evalops``: an EvalOps service that each round is reported to as it ends.

    The key is read from ``EVALOPS_API_KEY``. If the service does not answer, there is a warning and
    the loop continues. At its end, a launch spends up to five seconds on rounds that are not yet
    reported, and waits up to ``timeout_s`` for an open answer.
    """

    url: str | None = None
    """Address of the service; null: rounds are not reported."""
    suite: str | None = None
    """Id of the test suite that the test runs belong to."""
    tries: int = field(default=3, metadata=between(ge=1, le=10))
    """How often a request is sent before the service gets a pause."""
    timeout_s: float = field(default=10.0, metadata=between(gt=0, le=300))
    """Seconds that one request may take."""

    def __post_init__(self) -> None:
        if self.url is not None and not _is_address(self.url):
            raise ConfigError(
                "url",
                self.url,
                "expected an address such as https://evalops.dev, or https://HOST:PORT/PATH",
            )
        if self.url is not None and self.suite is None:
            raise ConfigError("suite", None, "loop.evalops.url needs the id of a test suite")


def _is_address(url: str) -> bool:
    """Whether requests can be sent to paths below ``url``."""
    try:
        parts = urlsplit(url)
        known = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # Invalid brackets, an invalid port, or an invalid name.
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#")
    return known and plain and parts.scheme in ("http", "https")


@dataclass(frozen=True)
class Loop:
    """The group ``loop``: fine-tuning in rounds, each evaluated, until one is good enough.

    The learning rate of round k peaks at ``lr · lr_decay^(k-1)``, not below ``min_lr``. Over the
    whole run it warms up and falls as a cosine (``stages.loop.schedule``).
    """

    enabled: bool = False
    """Train in rounds."""
    task: str | None = None
    """The evaluation that is watched; null: that of ``primary_metric``, else the trial's task."""
    metric: str | None = None
    """The metric that is watched; null: that of ``primary_metric``, else the only one."""
    threshold: float = field(default=0.8, metadata=between(ge=0, le=1))
    """The score that ends the loop. If no round reaches it, the trial fails."""
    max_rounds: int = field(default=3, metadata=between(ge=1, le=100))
    """The most rounds."""
    steps_per_round: int = field(default=100, metadata=between(ge=1))
    """Optimizer steps in a round."""
    max_steps: int | None = field(default=None, metadata=between(ge=1))
    """Length of the whole run in optimizer steps; null: ``max_rounds · steps_per_round``."""
    lr_decay: float = field(default=0.8, metadata=between(gt=0, le=1))
    """Factor by which the peak learning rate falls from round to round."""
    min_lr: float = field(default=0.0, metadata=between(ge=0))
    """The learning rate that the run ends with, and the lowest peak."""
    warmup_steps: int = field(default=0, metadata=between(ge=0))
    """Steps in which the learning rate rises to its peak, once per run."""
    use_recommended_lr: bool = False
    """Use tinker-cookbook's learning rate for the model. Do not combine it with a given rate."""
    batch_size: int | None = field(default=None, metadata=between(ge=1))
    """Samples in one optimizer step; null: ``optim.batch_size``, else as the recipe says."""
    max_seq_length: int | None = field(default=None, metadata=between(ge=1))
    """Tokens after which a sample is cut; null: as the recipe says."""
    renderer: str | None = None
    """The renderer of tinker-cookbook that formats chats; null: the model's."""
    hard_examples: Literal["off", "boost", "mine"] | bool = "off"
    """How the next round uses examples of groups in which evaluation samples failed: like all
    others (``off``), more often (``boost``), or as its only examples (``mine``).
    """
    hard_factor: float = field(default=3.0, metadata=between(ge=1))
    """With ``boost``: weight of an example whose group failed completely."""
    hard_by: Sequence[str] | None = None
    """Names in the samples' metadata that make groups; null: ``topic``, ``task`` and what scorers
    note.
    """
    evalops: EvalOps = field(default=EvalOps(), metadata=unkeyed)
    """An EvalOps service that rounds are reported to."""

    def __post_init__(self) -> None:
        if self.hard_examples is False:  # YAML reads an unquoted off as false.
            object.__setattr__(self, "hard_examples", "off")
        if self.hard_examples is True:
            raise ConfigError("hard_examples", "true", "valid: off, boost, mine")
        if self.hard_factor != 3.0 and self.hard_examples != "boost":
            raise ConfigError("hard_factor", self.hard_factor, "needs loop.hard_examples=boost")
        if self.hard_by is not None and self.hard_examples == "off":
            raise ConfigError(
                "hard_by", list(self.hard_by), "needs loop.hard_examples=boost or mine"
            )
        if self.hard_by is not None and not self.hard_by:
            raise ConfigError(
                "hard_by", "[]", "names no metadata; null for topic, task and what scorers note"
            )
        if self.warmup_steps >= self.total_steps:
            length = (
                "loop.max_steps" if self.max_steps else "loop.max_rounds · loop.steps_per_round"
            )
            raise ConfigError(
                "warmup_steps",
                self.warmup_steps,
                f"must be less than the run's {self.total_steps} steps ({length})",
            )

    @property
    def total_steps(self) -> int:
        """The optimizer steps of the whole run, which the learning rate's schedule covers."""
        return self.max_steps or self.max_rounds * self.steps_per_round

    @property
    def rounds(self) -> int:
        """The most rounds. ``max_steps`` may allow fewer than ``max_rounds``."""
        return min(self.max_rounds, math.ceil(self.total_steps / self.steps_per_round))


@dataclass(frozen=True)
class Config:
    """Everything about one trial.

    ``transforms`` are other sections that name a class in ``_target_``, or are ``null``. All the
    rest is in ``native``: the native settings of backends and evaluators.
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
    loop: Loop = Loop()
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


class Sections:
    """Builds ``Config`` objects, each distinct section once.

    Trials of a sweep share most of their sections: ``compose`` returns the same mapping object for
    a section that no factor changes.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[str, int], tuple[Any, Any]] = {}

    def config(self, data: Mapping[str, Any]) -> Config:
        """Check ``data``, the resolved configuration of a trial, and build a ``Config`` from it."""
        sections: dict[str, Any] = {"native": {}, "transforms": {}}
        for name, value in data.items():
            section = self.section(name, value)
            if name in TOP_LEVEL:
                sections[name] = section
            elif value is None or (isinstance(value, Mapping) and schema.TARGET in value):
                sections["transforms"][name] = section
            else:
                sections["native"][name] = section
        return schema.build(Config, sections)

    def section(self, name: str, value: Any) -> Any:
        """The typed section ``name``. The same mapping object gives the same section."""
        if not isinstance(value, Mapping):
            return value
        entry = self._built.get((name, id(value)))
        if entry is not None and entry[0] is value:
            return entry[1]
        section = self._build(name, value)
        # This keeps ``value`` alive, so that its id stays unique.
        self._built[name, id(value)] = (value, section)
        return section

    @staticmethod
    def _build(name: str, value: Mapping[str, Any]) -> Any:
        value = _without_missing(value)
        if name in ("backend", "eval") or (name not in TOP_LEVEL and schema.TARGET in value):
            return schema.build_target(value, name)
        if name == "resources":
            from mosweep.config.resources import Request

            return schema.build(Request, value, name)
        return schema.build(_SECTIONS[name], value, name) if name in _SECTIONS else value


#: The keys that a configuration may have besides native sections and transforms.
TOP_LEVEL = frozenset(section.name for section in fields(Config)) - {"native", "transforms"}

_SECTIONS: dict[str, type[Any]] = {
    "model": Model,
    "dataset": Dataset,
    "task": Task,
    "lora": Lora,
    "optim": Optim,
    "loop": Loop,
    "experiment": Experiment,
    "tracking": Tracking,
    "store": StoreConfig,
    "budget": Budget,
    "contamination": Contamination,
}


def _without_missing(value: Any) -> Any:
    """The data without OmegaConf's ``???``, which stands for a key that was not given."""
    if isinstance(value, Mapping):
        return {k: _without_missing(v) for k, v in value.items() if v != "???"}
    return value
