"""Settings: data sets and evaluations that belong together, chosen by tags.

In Python a ``Setting`` holds data sets of any kind; in a sweep, ``setting=NAME tags=[math]`` means
those of ``conf/setting/NAME.yaml``.
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
    """Data sets and names of evaluations, each with tags. ``add_…`` return the setting itself, so
    that calls can be chained.
    """

    id: str
    datasets: list[tuple[Any, frozenset[str]]] = field(default_factory=list)
    evals: list[tuple[str, frozenset[str]]] = field(default_factory=list)

    def add_dataset(self, dataset: Any, tags: Iterable[str] = ()) -> Self:
        """Add a data set: a ``JSONLDataset``, a name, whatever the training backend takes."""
        self.datasets.append((dataset, _tags(tags)))
        return self

    def add_eval(self, name: str, tags: Iterable[str] = ()) -> Self:
        """Add an evaluation by name. ``UserError`` if it is there already."""
        if any(known == name for known, _ in self.evals):
            raise UserError(
                f"setting {self.id!r} has the evaluation {name!r} already; give all its tags at "
                "once"
            )
        self.evals.append((name, _tags(tags)))
        return self

    def collate_datasets(self, tags: Collection[str] | None = None) -> list[Any]:
        """The data sets that have any of ``tags``, in the order they were added; all for ``None``,
        none for ``[]``.
        """
        return [dataset for dataset, own in self.datasets if tags is None or own & _tags(tags)]

    def collate_evals(self, tags: Collection[str] | None = None) -> list[str]:
        """The evaluations that have any of ``tags``; all for ``None``, none for ``[]``."""
        return [name for name, own in self.evals if tags is None or own & _tags(tags)]

    @property
    def tags(self) -> frozenset[str]:
        """All tags that occur."""
        return frozenset().union(*(own for _, own in [*self.datasets, *self.evals]))


def _tags(tags: Iterable[str]) -> frozenset[str]:
    if isinstance(tags, str):
        raise UserError(f"tags must be a list of words, not the text {tags!r}; give [{tags!r}]")
    return frozenset(tags)


Builder = Callable[[], "Setting | Awaitable[Setting]"]
_builders: dict[str, Builder] = {}


def register_setting(name: str) -> Callable[[Builder], Builder]:
    """A decorator: the function, sync or async, builds the setting ``name``. ``UserError`` if that
    name is taken.
    """

    def register(builder: Builder) -> Builder:
        if _builders.get(name, builder) is not builder:
            raise UserError(f"there is a setting {name!r} already")
        _builders[name] = builder
        return builder

    return register


def list_settings() -> list[str]:
    """Names of the registered settings."""
    return sorted(_builders)


async def get_setting(name: str) -> Setting:
    """The registered setting ``name``, built anew."""
    if name not in _builders:
        raise UserError(f"there is no setting {name!r}; {choices(name, _builders)}")
    built = _builders[name]()
    return await built if inspect.isawaitable(built) else built


# -- in sweeps -------------------------------------------------------------------------------------

#: What an entry under ``datasets`` may say: a choice of each of these groups, or a value of these
#: keys.
_DATASET_KEYS = ("dataset", "task", "dataset.name", "dataset.path")


def selected_overrides(setting: Any, tags: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What ``conf/setting/NAME.yaml`` and ``tags`` mean for a sweep: levels of its data sets, one
    mapping each, and what holds for all.

    Without a setting: no levels, nothing held. ``ConfigError`` for what is no setting, and for tags
    that nothing has.
    """
    if setting is None:
        if tags is not None:
            raise ConfigError("tags", tags, "choose from a setting; give setting=NAME, too")
        return [], {}
    built = _from_config(setting)
    if tags is not None and (
        not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags)
    ):
        raise ConfigError("tags", tags, "expected a list of words, such as tags=[math]")
    for tag in tags or ():
        if tag not in built.tags:
            raise ConfigError(
                "tags",
                tag,
                f"nothing in setting {built.id} has that tag; {choices(tag, built.tags)}",
            )
    evals = built.collate_evals(tags)
    return built.collate_datasets(tags), {"eval.tasks": evals} if evals else {}


def _from_config(data: Any) -> Setting:
    if (
        not isinstance(data, Mapping)
        or set(data) - {"name", "description", "datasets", "evals"}
        or "name" not in data
    ):
        raise ConfigError("setting", data, "expected name, datasets and evals, as in conf/setting/")
    setting = Setting(str(data["name"]))
    for index, entry in enumerate(data.get("datasets") or ()):
        where = f"setting.datasets[{index}]"
        if not isinstance(entry, Mapping):
            raise ConfigError(
                where, entry, "expected a mapping such as {dataset: words, tags: [formatting]}"
            )
        levels = {key: value for key, value in entry.items() if key != "tags"}
        if unknown := set(levels) - set(_DATASET_KEYS):
            raise ConfigError(
                where, sorted(unknown), f"no such key; valid: tags, {', '.join(_DATASET_KEYS)}"
            )
        if not levels:
            raise ConfigError(where, entry, "names no data set")
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
