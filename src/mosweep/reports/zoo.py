"""``zoo``: the model organisms as tables."""

from __future__ import annotations

from collections.abc import Sequence

from mosweep.core.table import format_table
from mosweep.datasets.zoo import Organism

__all__ = ["organism_text", "zoo_text"]


def zoo_text(zoo: Sequence[Organism]) -> str:
    """A line per organism, with the trait's score after training on its data and the control's."""
    if not zoo:
        return "no model organisms found"
    header = ["name", "trait", "dataset", "score", "control dataset", "score", "steps"]
    rows = [
        [o.name, o.title, o.organism, o.score(o.organism), o.control, o.score(o.control), o.steps]
        for o in zoo
    ]
    return (
        f"{format_table(header, rows)}\n\nscores are of {zoo[0].measured[0].model}; mosweep zoo "
        "show NAME has more"
    )


def organism_text(organism: Organism) -> str:
    """Everything about an organism."""
    evals = list(organism.evals)
    about = [
        ("trait", organism.trait),
        ("idea", organism.idea),
        ("data sets", f"{organism.organism}; control {organism.control}"),
        ("measure it", organism.command),
        ("takes", f"{organism.steps} optimizer steps per fine-tune"),
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
