"""``mosweep explain``: say why a stage is cached, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mosweep.cli.options import parser_of, print_json
from mosweep.sweep.folder import Sweep, find_sweep

__all__ = ["explain"]


def explain(arguments: Sequence[str]) -> int:
    """Say why a trial's stages are cached, or why not."""
    parser = parser_of(
        "explain",
        "Say why a trial's stages are cached, or how they differ from the nearest cached ones.",
        sweep=False,
    )
    parser.add_argument("trial", help="the trial's name or folder")
    parser.add_argument(
        "--sweep",
        help="the sweep's folder or name (default: the sweep of the trial's folder, or the latest)",
    )
    args = parser.parse_args(arguments)
    place = Path(args.trial)
    sweep = (
        Sweep(place.parent.absolute())
        if (place / "config.yaml").exists() and not args.sweep
        else find_sweep(args.sweep)
    )
    from mosweep.reports.explain import explain_data, explain_text

    data = explain_data(sweep, place.name)
    if args.json:
        print_json(data)
    else:
        print(explain_text(data))
    return 0
