"""``mosweep summary``: show a sweep's results."""

from __future__ import annotations

from collections.abc import Sequence

from mosweep.cli.options import parser_of, print_json
from mosweep.execution.observe import observed
from mosweep.sweep.folder import find_sweep

__all__ = ["summary"]


def summary(arguments: Sequence[str]) -> int:
    """Show a sweep's results."""
    args = parser_of(
        "summary", "Show a sweep's results, by trial. Failed trials are always listed."
    ).parse_args(arguments)
    result = observed(find_sweep(args.sweep))
    from mosweep.reports.summary import failures_text, summary_data, summary_text

    if args.json:
        print_json(summary_data(result))
    else:
        print(summary_text(result))
        failures = failures_text(result)
        print(failures, end="\n" if failures else "")
    return 0
