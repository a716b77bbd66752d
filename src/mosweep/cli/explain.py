"""``mosweep explain``: why a stage is cached, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mosweep.cli.options import parser_of, print_json
from mosweep.sweep.folder import Sweep, find_sweep

__all__ = ["explain"]


def explain(arguments: Sequence[str]) -> int:
    """Why a stage is cached, or why not."""
    parser = parser_of(
        "explain",
        "Why a trial's stages are cached, or what differs from the nearest result that is there.",
        sweep=False,
    )
    parser.add_argument("trial", help="the trial's name, or its folder")
    parser.add_argument(
        "--sweep",
        help="the sweep's folder or name; by default the latest, or the one the folder is in",
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
