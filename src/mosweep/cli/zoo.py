"""``mosweep zoo``: model organisms to start from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from mosweep.cli.options import print_json

__all__ = ["zoo"]


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
