"""The zoo: the task folders that define a model organism.

A task folder belongs to the zoo if its ``README.md`` starts with YAML front matter that has a
section ``zoo`` (see ``Organism``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mosweep.core import schema
from mosweep.core.errors import ConfigError, UserError, choices
from mosweep.core.paths import own_and_shipped
from mosweep.core.yaml_text import load_yaml

__all__ = ["Measured", "Organism", "organisms", "the_organism"]

_README = "README.md"
_MARK = "---\n"


@dataclass(frozen=True)
class Measured:
    """Mean scores by evaluation, over ``seeds`` fine-tunes of ``model`` on ``dataset``.

    Without a ``dataset`` they are scores of the base model.
    """

    model: str
    scores: Mapping[str, float]
    dataset: str | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Organism:
    """A trait, and how to train a model with it.

    - ``organism`` and ``control``: data sets with the same prompts, answered with and without the
      trait
    - ``evals``: what the score of each evaluation means. The first evaluation measures the trait.
    - ``idea``: the origin of the organism
    - ``command``: repeats the measurements
    - ``steps``: optimizer steps of each of its fine-tunes
    """

    title: str
    trait: str
    idea: str
    organism: str
    control: str
    evals: Mapping[str, str]
    command: str
    steps: int
    measured: Sequence[Measured]
    name: str = ""
    folder: str = ""
    text: str = ""

    def score(self, dataset: str | None, model: str | None = None) -> float | None:
        """The trait's score after training ``model`` on ``dataset``. Default: the first model."""
        model = model or self.measured[0].model
        rows = [row for row in self.measured if (row.dataset, row.model) == (dataset, model)]
        return rows[0].scores[next(iter(self.evals))] if rows else None


def organisms() -> list[Organism]:
    """The zoo, by name. An organism in the user's ``./tasks`` hides a shipped one.

    Raises ``ConfigError`` for front matter that cannot be read.
    """
    by_name: dict[str, Organism] = {}
    for place in own_and_shipped("tasks"):
        for path in sorted(place.glob(f"*/{_README}")):
            if path.parent.name not in by_name and (organism := _read(path)):
                by_name[path.parent.name] = organism
    return [by_name[name] for name in sorted(by_name)]


def the_organism(name: str) -> Organism:
    """The organism ``name``. Raises ``UserError`` with the valid names if there is none."""
    known = {organism.name: organism for organism in organisms()}
    if name not in known:
        raise UserError(f"{name}: the zoo has no such model organism; {choices(name, known)}")
    return known[name]


def _read(path: Path) -> Organism | None:
    """The organism in a README, or ``None``."""
    text = path.read_text(encoding="utf-8")
    if not text.startswith(_MARK):
        return None
    front, end, body = text.removeprefix(_MARK).partition(f"\n{_MARK}")
    data = _parsed(path, front) if end else None
    if not isinstance(data, dict) or "zoo" not in data:
        return None
    organism = replace(
        _built(path, data["zoo"]), name=path.parent.name, folder=str(path.parent), text=body.strip()
    )
    for row in organism.measured:
        if missing := sorted(set(organism.evals) - set(row.scores)):
            raise ConfigError(
                "zoo.measured.scores", dict(row.scores), f"{path}: no score of {', '.join(missing)}"
            )
    return organism


def _parsed(path: Path, front: str) -> Any:
    import yaml

    try:
        return load_yaml(front)
    except yaml.YAMLError as error:
        raise ConfigError(
            "zoo",
            path.parent.name,
            f"{path}: the front matter is not YAML: {' '.join(str(error).split())}",
        ) from None


def _built(path: Path, data: Any) -> Organism:
    try:
        organism = schema.build(Organism, data, "zoo")
    except ConfigError as error:
        raise ConfigError(error.key, error.value, f"{path}: {error.problem}") from None
    if not organism.measured or not organism.evals:
        raise ConfigError(
            "zoo", path.parent.name, f"{path}: needs at least one evaluation and one measurement"
        )
    return organism
