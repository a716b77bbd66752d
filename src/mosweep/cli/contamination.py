"""``mosweep contamination``: evaluation items that were in the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from mosweep.cli.options import parser_of, print_json
from mosweep.core.errors import UserError
from mosweep.sweep.folder import find_sweep

__all__ = ["contamination"]


def contamination(arguments: Sequence[str]) -> int:
    """Evaluation items that were in the training data."""
    parser = parser_of(
        "contamination",
        "Which evaluation items were in the training data, and the scores without them.",
    )
    parser.add_argument(
        "--max-overlap",
        type=float,
        metavar="FRACTION",
        help="refuse more; by default as the sweep's design says",
    )
    args = parser.parse_args(arguments)
    if args.max_overlap is not None and not 0 <= args.max_overlap <= 1:
        raise UserError(f"--max-overlap {args.max_overlap}: must be between 0 and 1")
    result = find_sweep(args.sweep).result()
    from mosweep.analysis.contamination import limit_of, overlap
    from mosweep.reports.contamination import overlap_text

    overlaps, limit = (
        overlap(result),
        limit_of(result) if args.max_overlap is None else args.max_overlap,
    )
    refused = [one for one in overlaps if limit is not None and one.fraction > limit]
    if args.json:
        names = list(dict.fromkeys(one.trial for one in refused))
        print_json(
            {"max_overlap": limit, "refused": names, "overlaps": [asdict(one) for one in overlaps]}
        )
    else:
        print(overlap_text(overlaps))
        for one in refused:
            print(
                f"REFUSED {one.trial}: {one.fraction:.1%} of {one.task}'s items are in the "
                f"training data, more than {limit:.1%}"
            )
    return 1 if refused else 0
