"""``mosweep bundle``: a sweep as one archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mosweep.cli.options import parser_of, print_json
from mosweep.sweep.folder import find_sweep

__all__ = ["bundle"]


def bundle(arguments: Sequence[str]) -> int:
    """A sweep as one archive."""
    parser = parser_of(
        "bundle",
        "A sweep as one archive: design, configurations, records, logs and samples. mosweep "
        "verify checks it anywhere.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where to (default: NAME.tar.gz)"
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="with adapters and models; without, their SHA-256 is there",
    )
    parser.add_argument(
        "--data", action="store_true", help="with data sets; without, their SHA-256 is there"
    )
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        metavar="NAME",
        help="for CITATION.cff: 'Family, Given', or a group's name",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="even if something in it looks like a secret"
    )
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    from mosweep.archive.bundle import pack
    from mosweep.archive.verdict import verdict_text

    output = args.output or Path(f"{sweep.folder.name}.tar.gz")
    verdict = pack(
        sweep, output, weights=args.weights, data=args.data, authors=args.author, anyway=args.anyway
    )
    if args.json:
        print_json({**asdict(verdict), "holds": verdict.holds})
    else:
        print(
            f"{verdict_text(verdict)}\n{output}: {output.stat().st_size / 1e6:,.1f} MB; to check "
            f"it: mosweep verify {output}"
        )
    return 0
