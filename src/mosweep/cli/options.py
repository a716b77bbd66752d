"""What the verbs' command lines have in common."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["parser_of", "print_json"]


def parser_of(verb: str, text: str, *, sweep: bool = True) -> argparse.ArgumentParser:
    """The parser of ``mosweep VERB``; with ``sweep`` it takes a sweep."""
    parser = argparse.ArgumentParser(prog=f"mosweep {verb}", description=text)
    if sweep:
        parser.add_argument(
            "sweep",
            nargs="?",
            help="the sweep's folder, or its name under multirun/; by default the latest",
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def print_json(data: Any) -> None:
    """Print data for programs."""
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))
