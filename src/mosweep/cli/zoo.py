"""``mosweep zoo``: browse model organisms to start from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from mosweep.cli.options import print_json

__all__ = ["zoo"]


def zoo(arguments: Sequence[str]) -> int:
    """Browse model organisms."""
    parser = argparse.ArgumentParser(
        prog="mosweep zoo",
        description="Browse model organisms: traits to train, each with a control data set.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser(
        "list", help="list organisms with measured scores, one per line", parents=[output]
    )
    actions.add_parser(
        "show", help="show one organism, and the command that measures it", parents=[output]
    ).add_argument("name", help="the organism's name")
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
