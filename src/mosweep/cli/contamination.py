"""``mosweep contamination``: find evaluation items in the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from mosweep.cli.options import parser_of, print_json
from mosweep.core.errors import UserError
from mosweep.sweep.folder import find_sweep

__all__ = ["contamination"]


def contamination(arguments: Sequence[str]) -> int:
    """Find evaluation items in the training data."""
    parser = parser_of(
        "contamination",
        "Find evaluation items in the training data, and report the scores without them.",
    )
    parser.add_argument(
        "--max-overlap",
        type=float,
        metavar="FRACTION",
        help="exit with 1 if a trial has more (default: contamination.max_overlap of the design)",
    )
    args = parser.parse_args(arguments)
    if args.max_overlap is not None and not 0 <= args.max_overlap <= 1:
        raise UserError(f"--max-overlap {args.max_overlap}: must be between 0 and 1")
    result = find_sweep(args.sweep).result()
    from mosweep.analysis.contamination import limit_of, overlap
    from mosweep.reports.contamination import overlap_text

    overlaps = overlap(result)
    limit = limit_of(result) if args.max_overlap is None else args.max_overlap
    refused = [item for item in overlaps if limit is not None and item.fraction > limit]
    if args.json:
        print_json(
            {
                "max_overlap": limit,
                "refused": list(dict.fromkeys(item.trial for item in refused)),
                "overlaps": [asdict(item) for item in overlaps],
            }
        )
    else:
        print(overlap_text(overlaps))
        for item in refused:
            print(
                f"REFUSED {item.trial}: {item.fraction:.1%} of {item.task}'s items are in the "
                f"training data, more than {limit:.1%}"
            )
    return 1 if refused else 0
