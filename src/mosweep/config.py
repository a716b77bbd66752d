"""The typed configuration of one trial: one dataclass per config group, checked at the door.

Field names are the keys of ``conf/`` and of the command line. Groups whose shape depends on the choice (``backend``, ``eval``) name
their class in ``_target_``. What is derived (``lora.alpha = 2·rank``) is derived here, unless given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from mosweep.core import schema
from mosweep.core.errors import ConfigError
from mosweep.core.schema import between
from mosweep.models.tiny import TinyArchitecture

__all__ = ["Budget", "Config", "Contamination", "Dataset", "Experiment", "Lora", "Model", "Optim", "StoreConfig", "Task", "Tracking"]


@dataclass(frozen=True)
class Model:
    """A base model: generated (``generate``), a local folder (``path``), a hub id (``hub``), or reached by name (``inspect``).

    ``recipe`` names the file ``recipes/<backend>/<recipe>.yaml`` with the native defaults for this model; without it ``name`` does.
    ``path`` may be relative to ``model_dir`` or the working directory. ``inspect`` is an Inspect model name (``openai/gpt-4o-mini``).
    """

    name: str
    recipe: str | None = None
    generate: TinyArchitecture | None = None
    generate_seed: int = 0
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    inspect: str | None = None

    def __post_init__(self) -> None:
        sources = [name for name in ("generate", "path", "hub", "inspect") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise ConfigError("path", self.path, f"give one source of the model, not {' and '.join(sources)}")


@dataclass(frozen=True)
class Dataset:
    """A data set: its ``name`` as the task's ``data.build`` knows it, or a file or folder of one's own (``path``)."""

    name: str
    path: str | None = None


@dataclass(frozen=True)
class Task:
    """A task folder ``tasks/<name>/`` with ``data.py``, ``eval.py`` and ``eval.yaml``."""

    name: str


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685). What is ``None`` is as the backend's recipe says."""

    rank: int | None = field(default=None, metadata=between(ge=1))
    alpha: float | None = field(default=None, metadata=between(gt=0))
    dropout: float | None = field(default=None, metadata=between(ge=0, lt=1))

    @cached_property
    def in_force(self) -> Lora:
        """The same with ``alpha`` as twice a given rank, unless it is given itself."""
        return replace(self, alpha=2.0 * self.rank) if self.alpha is None and self.rank is not None else self


@dataclass(frozen=True)
class Optim:
    """Optimisation: peak learning rate, batch size in samples, passes over the data, optional cap on steps per epoch.

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
    """The experiment's ``name`` (its folder under ``multirun/`` and its name in MLflow) and what it is about."""

    name: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and (self.name.startswith(".") or "/" in self.name or not self.name.strip()):
            raise ConfigError("name", self.name, "must be a plain folder name")


@dataclass(frozen=True)
class Tracking:
    """Where results are projected. ``uri`` is MLflow's tracking URI, by default SQLite in mosweep's home.

    ``project``, ``entity`` and ``mode`` are W&B's; offline, runs are written below mosweep's home for ``wandb sync``.
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
    """What a launch may take at most, by records of like stages; ``None``: any."""

    gpu_hours: float | None = field(default=None, metadata=between(ge=0))


@dataclass(frozen=True)
class Contamination:
    """``max_overlap``: the fraction of evaluation items that may occur in the training data before scores are marked; ``None``: any."""

    max_overlap: float | None = field(default=None, metadata=between(ge=0, le=1))


@dataclass(frozen=True)
class Config:
    """Everything about one trial."""

    model: Model
    dataset: Dataset
    task: Task
    backend: Any
    eval: Any
    lora: Lora = Lora()
    optim: Optim = Optim()
    seed: int = field(default=0, metadata=between(ge=0))
    control: bool = False
    resources: Any = None
    experiment: Experiment = Experiment()
    tracking: Tracking = Tracking()
    store: StoreConfig = StoreConfig()
    budget: Budget = Budget()
    contamination: Contamination = Contamination()
    torchtune: Mapping[str, Any] = field(default_factory=dict)
    inspect: Mapping[str, Any] = field(default_factory=dict)
    tasks_dir: str | None = None
    data_dir: str | None = None
    model_dir: str | None = None
    controls: Any = None
    treatments: Any = None
    seeds: Any = None
    run_control_trials: bool = True
    primary_metric: str | None = None
    contrasts: Any = None
    delta: float | None = field(default=None, metadata=between(gt=0))


class Sections:
    """Builds ``Config`` objects, each distinct section once.

    Trials of a sweep share most of their sections: compose hands over the very same mapping for a section that no factor touches.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[str, int], tuple[Any, Any]] = {}

    def config(self, data: Mapping[str, Any]) -> Config:
        """Check ``data``, the resolved configuration of a trial, and make it a ``Config``."""
        return schema.build(Config, {name: self._section(name, value) for name, value in data.items()})

    def _section(self, name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found = self._built.get((name, id(value)))
        if found is not None and found[0] is value:
            return found[1]
        built = self._build(name, value)
        self._built[name, id(value)] = (value, built)  # keeps ``value`` alive, so its id stays its own
        return built

    @staticmethod
    def _build(name: str, value: Mapping[str, Any]) -> Any:
        value = _without_missing(value)
        if name in ("backend", "eval"):
            return schema.build_target(value, name)
        if name == "resources":
            from mosweep.resources import Request

            return schema.build(Request, value, name)
        return schema.build(_SECTIONS[name], value, name) if name in _SECTIONS else value


_SECTIONS: dict[str, type[Any]] = {
    "model": Model,
    "dataset": Dataset,
    "task": Task,
    "lora": Lora,
    "optim": Optim,
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
