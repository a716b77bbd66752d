"""``mosweep watch``: show a live table of a sweep."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

from mosweep.cli.options import parser_of
from mosweep.core.errors import UserError
from mosweep.core.terminal import json_line
from mosweep.execution.observe import observed
from mosweep.sweep.folder import Sweep, find_sweep

__all__ = ["watch"]


def watch(arguments: Sequence[str]) -> int:
    """Show a live table of a sweep."""
    parser = parser_of(
        "watch",
        "Show a live table of a sweep until all its trials have ended. It only reads; stop it "
        "with Ctrl-C.",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="seconds between updates (default: 5)",
    )
    args = parser.parse_args(arguments)
    if args.every <= 0:
        raise UserError(f"--every {args.every}: must be more than 0 seconds")
    sweep = find_sweep(args.sweep)
    from mosweep.reports.status import status_data, status_text

    drawn_lines = 0
    last_text = ""
    while True:
        result = observed(Sweep(sweep.folder))
        ended = all(trial.status in ("succeeded", "failed", "cancelled") for trial in result.trials)
        if args.json:
            print(json_line(status_data(result)), flush=True)
        else:
            width, height = shutil.get_terminal_size()
            text = status_text(result, max(5, height - 8))
            if sys.stdout.isatty():
                lines = [line[: width - 1] for line in text.splitlines()]
                sys.stdout.write(
                    (f"\x1b[{drawn_lines}F\x1b[J" if drawn_lines else "") + "\n".join(lines) + "\n"
                )
                drawn_lines = len(lines)
            elif text != last_text:
                print(text + "\n", flush=True)
            last_text = text
            sys.stdout.flush()
        if ended:
            return 0 if all(trial.status == "succeeded" for trial in result.trials) else 1
        time.sleep(args.every)
