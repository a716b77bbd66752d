"""The zoo: task folders that make a model organism, each told of by the front matter of its
``README.md``.

A task folder belongs to the zoo if its README begins with YAML between two lines ``---`` that has a
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
from mosweep.core.table import format_table

__all__ = ["Measured", "Organism", "list_text", "organisms", "show_text", "the_organism"]

_README, _MARK = "README.md", "---\n"


@dataclass(frozen=True)
class Measured:
    """Mean scores over ``seeds`` fine-tunes of ``model`` on ``dataset`` (``None``: the untouched
    model), by evaluation.
    """

    model: str
    scores: Mapping[str, float]
    dataset: str | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Organism:
    """A trait and how to get it.

    ``organism`` and ``control`` are data sets with the same prompts, answered with and without the
    trait. ``evals`` says, by evaluation, what its score means; the first is the trait's own.
    ``idea`` is where it is from, ``command`` measures it again; each of its fine-tunes takes so
    many optimizer ``steps``.
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
        """The trait's score that was measured after training on ``dataset``, by default of the
        first model.
        """
        model = model or self.measured[0].model
        found = [row for row in self.measured if (row.dataset, row.model) == (dataset, model)]
        return found[0].scores[next(iter(self.evals))] if found else None


def organisms() -> list[Organism]:
    """The zoo, by name: the user's own ``./tasks``, then the shipped ones. ``ConfigError`` for
    front matter that cannot be understood.
    """
    found: dict[str, Organism] = {}
    for place in own_and_shipped("tasks"):
        for path in sorted(place.glob(f"*/{_README}")):
            if path.parent.name not in found and (organism := _read(path)):
                found[path.parent.name] = organism
    return [found[name] for name in sorted(found)]


def the_organism(name: str) -> Organism:
    """The organism called ``name``; ``UserError`` with the valid ones."""
    known = {organism.name: organism for organism in organisms()}
    if name not in known:
        raise UserError(f"{name}: no model organism of the zoo; {choices(name, known)}")
    return known[name]


def list_text(zoo: Sequence[Organism]) -> str:
    """One line an organism, with the trait's score after training on its data and on the
    control's.
    """
    if not zoo:
        return "no model organisms here"
    header = ["name", "trait", "dataset", "score", "control dataset", "score", "steps"]
    rows = [
        [o.name, o.title, o.organism, o.score(o.organism), o.control, o.score(o.control), o.steps]
        for o in zoo
    ]
    return (
        f"{format_table(header, rows)}\n\nscores of {zoo[0].measured[0].model}; more: mosweep "
        "zoo show NAME"
    )


def show_text(organism: Organism) -> str:
    """Everything about it, to read."""
    evals = list(organism.evals)
    about = [
        ("trait", organism.trait),
        ("idea", organism.idea),
        ("data sets", f"{organism.organism}; control {organism.control}"),
        ("measure it", organism.command),
        ("takes", f"{organism.steps} optimizer steps a fine-tune"),
        ("files", organism.folder),
    ]
    lines = [
        f"{organism.name}: {organism.title}",
        "",
        *(f"{word:<11} {text}" for word, text in about),
        "",
    ]
    lines += [f"{name:<15} {text}" for name, text in organism.evals.items()]
    rows = [
        [
            row.model,
            row.dataset or "(nothing)",
            row.seeds,
            *(row.scores.get(name) for name in evals),
        ]
        for row in organism.measured
    ]
    return "\n".join(
        [
            *lines,
            "",
            format_table(["model", "trained on", "seeds", *evals], rows),
            "",
            organism.text,
        ]
    )


def _read(path: Path) -> Organism | None:
    """What a README says of an organism; ``None`` if it is about something else."""
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
        return yaml.safe_load(front)
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
