"""``mosweep status``: show the state of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from mosweep.cli.options import parser_of, print_json
from mosweep.execution.observe import observed
from mosweep.sweep.folder import find_sweep

__all__ = ["status"]


def status(arguments: Sequence[str]) -> int:
    """Show the state of a sweep."""
    args = parser_of("status", "Show the state of a sweep, by trial and stage.").parse_args(
        arguments
    )
    result = observed(find_sweep(args.sweep))
    from mosweep.reports.status import status_data, status_text

    if args.json:
        print_json(status_data(result))
    else:
        print(status_text(result))
    return 0
