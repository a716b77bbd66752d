"""``mosweep analyze``: write a sweep's report."""

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
    """Write a sweep's report."""
    parser = parser_of(
        "analyze",
        "Write a sweep's report: a self-contained HTML page, Markdown, plots and tables.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="the report's folder (default: report/ in the sweep's folder)",
    )
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    output = args.output or sweep.folder / "report"
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: exists and is not a folder; choose another path")
    from mosweep.analysis.effects import effects_data
    from mosweep.reports.analyze import analyze

    report = analyze(sweep, observed(sweep), output)
    if args.json:
        print_json(
            {
                "folder": str(report.folder),
                "files": report.files,
                "problem": report.problem,
                "effects": effects_data(report.effects),
            }
        )
    else:
        for effect in report.effects:
            estimate = f"{effect.estimate:+.3f}, " if effect.estimate is not None else ""
            print(f"{effect.contrast}: {effect.metric}: {estimate}{effect.verdict}")
        if report.problem:
            print(f"no effects: {report.problem}")
        print(os.path.relpath(report.folder / "report.html"))
    return 0
