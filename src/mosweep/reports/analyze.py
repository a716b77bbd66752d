"""``analyze``: a sweep's report as a folder.

    report.html, report.md       comparisons, findings, failures and provenance
    plots/*.svg                  the figures of the page
    trials, items, effects       the numbers, each as .csv and as .parquet

Only records are read: the same records give the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mosweep.analysis.effects import Effect
from mosweep.core.errors import MissingExtra
from mosweep.core.files import write_whole
from mosweep.core.results import SweepResult
from mosweep.reports import figures, page
from mosweep.reports.content import Content
from mosweep.reports.sections import report_of
from mosweep.reports.tables import effects_table, items_table, trials_table
from mosweep.sweep.folder import Sweep

__all__ = ["Analysis", "analyze"]

_LIBRARIES = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib")
_FIGURES = ("effects", "scores", "interaction", "loss")


@dataclass(frozen=True)
class Analysis:
    """A written report: its ``files`` in ``folder``, and the ``effects``.

    ``problem`` says why there are no effects, if they cannot be computed.
    """

    folder: Path
    files: tuple[str, ...]
    effects: tuple[Effect, ...]
    problem: str | None


def analyze(sweep: Sweep, result: SweepResult, folder: Path) -> Analysis:
    """Write the report of a sweep into ``folder``, replacing an earlier one."""
    for library in _LIBRARIES:
        if find_spec(library) is None:
            raise MissingExtra(library, "reports", "a report")
    content = Content(sweep, result, folder)
    drawn = figures.draw(content)
    report = report_of(content, drawn)
    tables = {
        "trials": trials_table(content),
        "items": items_table(content),
        "effects": effects_table(content),
    }
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    files = ["report.html", "report.md"]
    write_whole(folder / "report.html", page.html(report))
    write_whole(folder / "report.md", page.markdown(report))
    for name in _FIGURES:
        plot = folder / "plots" / f"{name}.svg"
        if name in drawn:
            files.append(f"plots/{name}.svg")
            write_whole(plot, drawn[name].svg)
        else:
            plot.unlink(missing_ok=True)
    for name, table in tables.items():
        files += [f"{name}.csv", f"{name}.parquet"]
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        table.to_parquet(folder / f"{name}.parquet", engine="pyarrow", index=False)
    return Analysis(folder, tuple(files), content.effects, content.problem)
