"""``mosweep analyze``: a sweep as a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mosweep.cli.options import parser_of, print_json
from mosweep.core.errors import UserError
from mosweep.execution.observe import observed
from mosweep.sweep.folder import find_sweep

__all__ = ["analyze"]


def analyze(arguments: Sequence[str]) -> int:
    """A sweep as a report."""
    parser = parser_of(
        "analyze",
        "A sweep as a report: a page that opens anywhere, the same as Markdown, plots, and tables.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="where to (default: report/ in the sweep's folder)",
    )
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    output = args.output or sweep.folder / "report"
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is there, and not a folder")
    from mosweep.analysis.effects import effects_data
    from mosweep.reports.analyze import analyze

    done = analyze(sweep, observed(sweep), output)
    if args.json:
        print_json(
            {
                "folder": str(done.folder),
                "files": done.files,
                "problem": done.problem,
                "effects": effects_data(done.effects),
            }
        )
    else:
        for effect in done.effects:
            estimate = f"{effect.estimate:+.3f}, " if effect.estimate is not None else ""
            print(f"{effect.contrast}: {effect.metric}: {estimate}{effect.verdict}")
        if done.problem:
            print(f"no effects: {done.problem}")
        print(os.path.relpath(done.folder / "report.html"))
    return 0
