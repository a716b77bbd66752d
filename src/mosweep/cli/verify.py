"""``mosweep verify``: check a bundle on any machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mosweep.cli.options import print_json

__all__ = ["verify"]


def verify(arguments: Sequence[str]) -> int:
    """Recompute every digest, key and mean in a bundle."""
    parser = argparse.ArgumentParser(
        prog="mosweep verify",
        description="Recompute every digest, key and mean in a bundle. Needs no store and runs "
        "nothing.",
    )
    parser.add_argument("bundle", type=Path, help="the archive that mosweep bundle wrote")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    from mosweep.archive.verdict import verdict_text
    from mosweep.archive.verify import verify

    verdict = verify(args.bundle)
    if args.json:
        print_json({**asdict(verdict), "holds": verdict.holds})
    else:
        print(verdict_text(verdict))
    return 0 if verdict.holds else 1
