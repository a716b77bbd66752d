"""``mosweep bundle``: pack a sweep into one archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mosweep.cli.options import parser_of, print_json
from mosweep.sweep.folder import find_sweep

__all__ = ["bundle"]


def bundle(arguments: Sequence[str]) -> int:
    """Pack a sweep into one archive."""
    parser = parser_of(
        "bundle",
        "Pack a sweep into one archive: design, configurations, records, logs and samples. "
        "Check it on any machine with mosweep verify.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the archive (default: NAME.tar.gz)"
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="include adapters and models; otherwise only their SHA-256 digests",
    )
    parser.add_argument(
        "--data",
        action="store_true",
        help="include data sets; otherwise only their SHA-256 digests",
    )
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        metavar="NAME",
        help="an author for CITATION.cff: 'Family, Given', or a group's name; repeatable",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="pack even if a file seems to contain a secret"
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
            f"{verdict_text(verdict)}\n{output}: {output.stat().st_size / 1e6:,.1f} MB; check "
            f"it with: mosweep verify {output}"
        )
    return 0
