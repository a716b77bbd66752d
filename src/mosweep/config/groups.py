"""The typed configuration of one trial: one dataclass per config group, checked at the door.

Field names are the keys of ``conf/`` and of the command line. Groups whose shape depends on the
choice (``backend``, ``eval``) name their class in ``_target_``. What is derived (``lora.alpha =
2·rank``) is derived here, unless given.
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
    *(
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
    ),
    "TOP_LEVEL",
    "Tracking",
]


@dataclass(frozen=True)
class Model:
    """A base model: generated (``generate``), a local folder (``path``), a hub id (``hub``), or
    reached by name (``inspect``).

    ``recipe`` names the file ``recipes/<backend>/<recipe>.yaml`` with the native defaults for this
    model; without it ``name`` does. ``path`` may be relative to ``model_dir`` or the working
    directory. ``inspect`` is an Inspect model name (``openai/gpt-4o-mini``). ``tinker`` is what
    Tinker calls the model, by default its hub id, and ``renderer`` how tinker-cookbook writes chats
    for it.
    """

    name: str
    recipe: str | None = None
    generate: TinyArchitecture | None = None
    generate_seed: int = 0
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    inspect: str | None = None
    tinker: str | None = field(default=None, metadata=unkeyed)
    renderer: str | None = field(default=None, metadata=unkeyed)

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


@dataclass(frozen=True)
class Dataset:
    """A data set: its ``name`` as the task's ``data.build`` knows it, or a file or folder of one's
    own (``path``).
    """

    name: str
    path: str | None = None


@dataclass(frozen=True)
class Task:
    """A task folder ``tasks/<name>/`` with ``data.py``, ``eval.py`` and ``eval.yaml``."""

    name: str


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685). What is ``None`` is as the backend's
    recipe says.
    """

    rank: int | None = field(default=None, metadata=between(ge=1))
    alpha: float | None = field(default=None, metadata=between(gt=0))
    dropout: float | None = field(default=None, metadata=between(ge=0, lt=1))

    @cached_property
    def in_force(self) -> Lora:
        """The same with ``alpha`` as twice a given rank, unless it is given itself."""
        return (
            replace(self, alpha=2.0 * self.rank)
            if self.alpha is None and self.rank is not None
            else self
        )


@dataclass(frozen=True)
class Optim:
    """Optimisation: peak learning rate, batch size in samples, passes over the data, optional cap
    on steps per epoch.

    What is ``None`` is as the backend's recipe says.
    """

    lr: float | None = field(default=None, metadata=between(gt=0))
    batch_size: int | None = field(default=None, metadata=between(ge=1))
    epochs: int | None = field(default=None, metadata=between(ge=1))
    max_steps_per_epoch: int | None = field(default=None, metadata=between(ge=1))
    warmup_steps: int | None = field(default=None, metadata=between(ge=0))
    weight_decay: float | None = field(default=None, metadata=between(ge=0))


@dataclass(frozen=True)
class Experiment:
    """The experiment's ``name`` (its folder under ``multirun/`` and its name in MLflow) and what it
    is about.
    """

    name: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and (
            self.name.startswith(".") or "/" in self.name or not self.name.strip()
        ):
            raise ConfigError("name", self.name, "must be a plain folder name")


@dataclass(frozen=True)
class Tracking:
    """Where results are projected. ``uri`` is MLflow's tracking URI, by default SQLite in mosweep's
    home.

    ``project``, ``entity`` and ``mode`` are W&B's; offline, runs are written below mosweep's home
    for ``wandb sync``.
    """

    recorder: Literal["mlflow", "wandb", "mlflow+wandb", "none"] = "mlflow"
    uri: str | None = None
    project: str = "mosweep"
    entity: str | None = None
    mode: Literal["online", "offline"] | None = None

    @property
    def recorders(self) -> list[str]:
        """Names of the recorders, none for ``none``."""
        return [] if self.recorder == "none" else self.recorder.split("+")


@dataclass(frozen=True)
class StoreConfig:
    """``dir``: where the store lies, by default in mosweep's home."""

    dir: str | None = None


@dataclass(frozen=True)
class Budget:
    """What a launch may take at most, by records of like stages; ``None``: any. ``usd`` is what
    providers ask for tokens.
    """

    gpu_hours: float | None = field(default=None, metadata=between(ge=0))
    usd: float | None = field(default=None, metadata=between(ge=0))


@dataclass(frozen=True)
class Contamination:
    """``max_overlap``: the fraction of evaluation items that may occur in the training data before
    scores are marked; ``None``: any.
    """

    max_overlap: float | None = field(default=None, metadata=between(ge=0, le=1))


@dataclass(frozen=True)
class EvalOps:
    """Where each round is told of: ``url`` of an EvalOps service and the ``suite`` (id) that its
    test runs belong to; ``None``: nowhere.

    The key is read from ``EVALOPS_API_KEY``. The service is asked up to ``tries`` times,
    ``timeout_s`` seconds each, beside the work; one that does not answer costs a warning. The end
    of a launch waits for an answer that is due, ``timeout_s`` at most; for five seconds, rounds
    that are left are told, too.
    """

    url: str | None = None
    suite: str | None = None
    tries: int = field(default=3, metadata=between(ge=1, le=10))
    timeout_s: float = field(default=10.0, metadata=between(gt=0, le=300))

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
    except ValueError:  # brackets, a port, or a name that cannot be
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#")
    return known and plain and parts.scheme in ("http", "https")


@dataclass(frozen=True)
class Loop:
    """Evaluation-driven fine-tuning: rounds of ``steps_per_round`` optimizer steps, each evaluated,
    until one reaches ``threshold``.

    Watched is ``metric`` of ``task``, by default those of ``primary_metric``, else the trial's task
    and its only metric. The learning rate of round k peaks at ``lr · lr_decay^(k-1)``, not below
    ``min_lr``; over the whole run it warms up and falls as a cosine (``training.schedule``). The
    run is ``max_steps`` long, by default ``max_rounds · steps_per_round``. ``hard_examples``
    decides what the examples of the groups in which evaluation samples failed are worth in the next
    round: as any other (``off``), up to ``hard_factor`` times as much (``boost``), or everything
    (``mine``); ``hard_by`` are the names in the metadata that make groups.
    """

    enabled: bool = False
    task: str | None = None
    metric: str | None = None
    threshold: float = field(default=0.8, metadata=between(ge=0, le=1))
    max_rounds: int = field(default=3, metadata=between(ge=1, le=100))
    steps_per_round: int = field(default=100, metadata=between(ge=1))
    max_steps: int | None = field(default=None, metadata=between(ge=1))
    lr_decay: float = field(default=0.8, metadata=between(gt=0, le=1))
    min_lr: float = field(default=0.0, metadata=between(ge=0))
    warmup_steps: int = field(default=0, metadata=between(ge=0))
    use_recommended_lr: bool = False
    batch_size: int | None = field(default=None, metadata=between(ge=1))
    max_seq_length: int | None = field(default=None, metadata=between(ge=1))
    renderer: str | None = None
    hard_examples: Literal["off", "boost", "mine"] | bool = "off"
    hard_factor: float = field(default=3.0, metadata=between(ge=1))
    hard_by: Sequence[str] | None = None
    evalops: EvalOps = EvalOps()

    def __post_init__(self) -> None:
        if self.hard_examples is False:  # what YAML makes of an unquoted off
            object.__setattr__(self, "hard_examples", "off")
        if self.hard_examples is True:
            raise ConfigError("hard_examples", "true", "valid: off, boost, mine")
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
        """Length of the whole run, in optimizer steps: where the schedule of the learning rate
        ends.
        """
        return self.max_steps or self.max_rounds * self.steps_per_round

    @property
    def rounds(self) -> int:
        """How many rounds there are at most; ``max_steps`` may allow fewer than ``max_rounds``."""
        return min(self.max_rounds, math.ceil(self.total_steps / self.steps_per_round))


@dataclass(frozen=True)
class Config:
    """Everything about one trial.

    ``transforms`` are further sections that name a class in ``_target_``, or are ``null``;
    ``native`` are all others: the native settings of backends and evaluators.
    """

    model: Model
    dataset: Dataset
    task: Task
    backend: Any
    eval: Any
    lora: Lora = Lora()
    optim: Optim = Optim()
    loop: Loop = Loop()
    seed: int = field(default=0, metadata=between(ge=0))
    control: bool = False
    resources: Any = None
    experiment: Experiment = Experiment()
    tracking: Tracking = Tracking()
    store: StoreConfig = StoreConfig()
    budget: Budget = Budget()
    contamination: Contamination = Contamination()
    transforms: Mapping[str, Any] = field(default_factory=dict)
    native: Mapping[str, Any] = field(default_factory=dict)
    tasks_dir: str | None = None
    data_dir: str | None = None
    model_dir: str | None = None
    controls: Any = None
    treatments: Any = None
    seeds: Any = None
    setting: Any = None
    tags: Any = None
    run_control_trials: bool = True
    primary_metric: str | None = None
    contrasts: Any = None
    delta: float | None = field(default=None, metadata=between(gt=0))


class Sections:
    """Builds ``Config`` objects, each distinct section once.

    Trials of a sweep share most of their sections: compose hands over the very same mapping for a
    section that no factor touches.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[str, int], tuple[Any, Any]] = {}

    def config(self, data: Mapping[str, Any]) -> Config:
        """Check ``data``, the resolved configuration of a trial, and make it a ``Config``."""
        found: dict[str, Any] = {"native": {}, "transforms": {}}
        for name, value in data.items():
            section = self.section(name, value)
            if name in TOP_LEVEL:
                found[name] = section
            elif value is None or (isinstance(value, Mapping) and schema.TARGET in value):
                found["transforms"][name] = section
            else:
                found["native"][name] = section
        return schema.build(Config, found)

    def section(self, name: str, value: Any) -> Any:
        """The typed section ``name``; the same mapping gives the same object."""
        if not isinstance(value, Mapping):
            return value
        found = self._built.get((name, id(value)))
        if found is not None and found[0] is value:
            return found[1]
        built = self._build(name, value)
        # keeps ``value`` alive, so its id stays its own
        self._built[name, id(value)] = (value, built)
        return built

    @staticmethod
    def _build(name: str, value: Mapping[str, Any]) -> Any:
        value = _without_missing(value)
        if name in ("backend", "eval") or (name not in TOP_LEVEL and schema.TARGET in value):
            return schema.build_target(value, name)
        if name == "resources":
            from mosweep.config.resources import Request

            return schema.build(Request, value, name)
        return schema.build(_SECTIONS[name], value, name) if name in _SECTIONS else value


#: The keys that a configuration may have beside native sections and transforms.
TOP_LEVEL = frozenset(each.name for each in fields(Config)) - {"native", "transforms"}

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
    """OmegaConf's ``???`` as a key that was not given."""
    if isinstance(value, Mapping):
        return {k: _without_missing(v) for k, v in value.items() if v != "???"}
    return value
