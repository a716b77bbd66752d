"""Verbs that report: ``contamination``, ``analyze``, ``bundle``, ``verify``, ``zoo``,
``doctor``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mosweep.cli.looking import observed
from mosweep.cli.options import parser_of, print_json
from mosweep.core.errors import UserError
from mosweep.sweep.folder import find_sweep

__all__ = ["analyze", "bundle", "contamination", "doctor", "verify", "zoo"]


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


def analyze(arguments: Sequence[str]) -> int:
    """A sweep as a report."""
    parser = parser_of(
        "analyze",
        "A sweep as a report: a page that opens anywhere, the same as Markdown, plots, and tables.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="where to (default: report/ in the sweep's folder)",
    )
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    output = args.output or sweep.folder / "report"
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is there, and not a folder")
    from mosweep.analysis.effects import effects_data
    from mosweep.reports.analyze import analyze

    done = analyze(sweep, observed(sweep), output)
    if args.json:
        print_json(
            {
                "folder": str(done.folder),
                "files": done.files,
                "problem": done.problem,
                "effects": effects_data(done.effects),
            }
        )
    else:
        for effect in done.effects:
            estimate = f"{effect.estimate:+.3f}, " if effect.estimate is not None else ""
            print(f"{effect.contrast}: {effect.metric}: {estimate}{effect.verdict}")
        if done.problem:
            print(f"no effects: {done.problem}")
        print(os.path.relpath(done.folder / "report.html"))
    return 0


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


def verify(arguments: Sequence[str]) -> int:
    """Derive all that is in a bundle again."""
    parser = argparse.ArgumentParser(
        prog="mosweep verify",
        description="Derive every digest in a bundle again. Needs no store, runs nothing.",
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


def zoo(arguments: Sequence[str]) -> int:
    """Model organisms."""
    parser = argparse.ArgumentParser(
        prog="mosweep zoo",
        description="Model organisms: traits to train, each with a control data set.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    printed = argparse.ArgumentParser(add_help=False)
    printed.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser("list", help="one line an organism, with measured scores", parents=[printed])
    actions.add_parser(
        "show", help="all about one, and the command that measures it", parents=[printed]
    ).add_argument("name")
    args = parser.parse_args(arguments)
    from mosweep.datasets.zoo import organisms, the_organism
    from mosweep.reports.zoo import organism_text, zoo_text

    if args.action == "show":
        organism = the_organism(args.name)
        print_json(asdict(organism)) if args.json else print(organism_text(organism))
        return 0
    everything = organisms()
    print_json([asdict(organism) for organism in everything]) if args.json else print(
        zoo_text(everything)
    )
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """What would work here."""
    args = parser_of(
        "doctor", "What is installed, which backends would work here and why not.", sweep=False
    ).parse_args(arguments)
    from mosweep.cli.doctor import diagnose, diagnosis_text

    checks = diagnose()
    if args.json:
        print_json([asdict(check) for check in checks])
    else:
        print(diagnosis_text(checks))
    return 0
