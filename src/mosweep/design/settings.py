"""Settings: data sets and evaluations that belong together, selected by tags.

In Python, a ``Setting`` holds data sets of any kind. In a sweep, ``setting=NAME tags=[math]``
selects from ``conf/setting/NAME.yaml``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mosweep.core.errors import ConfigError, UserError, choices

__all__ = ["Setting", "get_setting", "list_settings", "register_setting", "selected_overrides"]


@dataclass
class Setting:
    """Data sets and names of evaluations, each with tags.

    The ``add_…`` methods return the setting, so that calls can be chained.
    """

    id: str
    datasets: list[tuple[Any, frozenset[str]]] = field(default_factory=list)
    evals: list[tuple[str, frozenset[str]]] = field(default_factory=list)

    def add_dataset(self, dataset: Any, tags: Iterable[str] = ()) -> Self:
        """Add a data set: a ``JSONLDataset``, a name, or anything the training backend accepts."""
        self.datasets.append((dataset, _tags(tags)))
        return self

    def add_eval(self, name: str, tags: Iterable[str] = ()) -> Self:
        """Add an evaluation by name. ``UserError`` if the setting already has it."""
        if any(known == name for known, _ in self.evals):
            raise UserError(
                f"setting {self.id!r} already has the evaluation {name!r}; give all its tags at "
                "once"
            )
        self.evals.append((name, _tags(tags)))
        return self

    def collate_datasets(self, tags: Collection[str] | None = None) -> list[Any]:
        """The data sets with any of ``tags``, in the order they were added.

        All for ``None``, none for ``[]``.
        """
        return [dataset for dataset, own in self.datasets if tags is None or own & _tags(tags)]

    def collate_evals(self, tags: Collection[str] | None = None) -> list[str]:
        """The evaluations with any of ``tags``. All for ``None``, none for ``[]``."""
        return [name for name, own in self.evals if tags is None or own & _tags(tags)]

    @property
    def tags(self) -> frozenset[str]:
        """All tags of the setting's data sets and evaluations."""
        return frozenset().union(*(own for _, own in [*self.datasets, *self.evals]))


def _tags(tags: Iterable[str]) -> frozenset[str]:
    if isinstance(tags, str):
        raise UserError(f"tags={tags!r}: expected a list of words, such as [{tags!r}]")
    return frozenset(tags)


Builder = Callable[[], "Setting | Awaitable[Setting]"]
_builders: dict[str, Builder] = {}


def register_setting(name: str) -> Callable[[Builder], Builder]:
    """A decorator for the function, sync or async, that builds the setting ``name``.

    ``UserError`` if the name is taken.
    """

    def register(builder: Builder) -> Builder:
        if _builders.get(name, builder) is not builder:
            raise UserError(f"a setting {name!r} is already registered; choose another name")
        _builders[name] = builder
        return builder

    return register


def list_settings() -> list[str]:
    """The names of the registered settings."""
    return sorted(_builders)


async def get_setting(name: str) -> Setting:
    """Build the registered setting ``name``."""
    if name not in _builders:
        raise UserError(f"no setting {name!r} is registered; {choices(name, _builders)}")
    setting = _builders[name]()
    return await setting if inspect.isawaitable(setting) else setting


# -- in sweeps -------------------------------------------------------------------------------------

#: The keys of an entry under ``datasets``, besides ``tags``.
_DATASET_KEYS = ("dataset", "task", "dataset.name", "dataset.path")


def selected_overrides(setting: Any, tags: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The data sets that ``setting`` and ``tags`` select, and the overrides of all trials.

    Each data set is a mapping of levels. ``setting`` is the content of ``conf/setting/NAME.yaml``;
    both results are empty without one. ``ConfigError`` for an invalid setting and for an unknown
    tag.
    """
    if setting is None:
        if tags is not None:
            raise ConfigError("tags", tags, "tags select from a setting; add setting=NAME")
        return [], {}
    selected = _from_config(setting)
    if tags is not None and (
        not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags)
    ):
        raise ConfigError("tags", tags, "expected a list of words, such as tags=[math]")
    for tag in tags or ():
        if tag not in selected.tags:
            raise ConfigError(
                "tags",
                tag,
                f"setting {selected.id} has no such tag; {choices(tag, selected.tags)}",
            )
    evals = selected.collate_evals(tags)
    return selected.collate_datasets(tags), {"eval.tasks": evals} if evals else {}


def _from_config(data: Any) -> Setting:
    if (
        not isinstance(data, Mapping)
        or set(data) - {"name", "description", "datasets", "evals"}
        or "name" not in data
    ):
        raise ConfigError("setting", data, "expected name, datasets and evals, as in conf/setting/")
    setting = Setting(str(data["name"]))
    for index, entry in enumerate(data.get("datasets") or ()):
        key = f"setting.datasets[{index}]"
        if not isinstance(entry, Mapping):
            raise ConfigError(
                key, entry, "expected a mapping such as {dataset: words, tags: [formatting]}"
            )
        levels = {name: value for name, value in entry.items() if name != "tags"}
        if unknown := set(levels) - set(_DATASET_KEYS):
            raise ConfigError(
                key, sorted(unknown), f"no such key; valid: tags, {', '.join(_DATASET_KEYS)}"
            )
        if not levels:
            raise ConfigError(
                key, entry, f"names no data set; give one of {', '.join(_DATASET_KEYS)}"
            )
        setting.add_dataset(levels, entry.get("tags") or ())
    for index, entry in enumerate(data.get("evals") or ()):
        if (
            not isinstance(entry, Mapping)
            or not isinstance(entry.get("task"), str)
            or set(entry) - {"task", "tags"}
        ):
            raise ConfigError(
                f"setting.evals[{index}]",
                entry,
                "expected a mapping such as {task: capitalization, tags: [formatting]}",
            )
        setting.add_eval(entry["task"], entry.get("tags") or ())
    return setting
