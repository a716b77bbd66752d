"""``mosweep help``: the verbs, or the meaning of a key."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mosweep.core.errors import UserError, choices

__all__ = ["reference"]


def reference(arguments: Sequence[str]) -> int:
    """Explain a key, or all keys of a section."""
    parser = argparse.ArgumentParser(
        prog="mosweep help",
        description="Explain a key, such as lora.rank, or all keys of a section, such as optim.",
    )
    parser.add_argument("key", nargs="?", help="a key, or a section")
    args = parser.parse_args(arguments)
    if args.key is None:
        from mosweep.cli.main import print_verbs

        print_verbs()
        return 0
    from mosweep.config.reference import Option, all_options

    known = all_options()
    found = [one for one in known if one.key == args.key or one.key.startswith(f"{args.key}.")]
    if not found:
        raise UserError(f"{args.key}: no such key; {choices(args.key, [one.key for one in known])}")

    def lines(one: Option) -> list[str]:
        kind = f"{one.type}, {one.bounds}" if one.bounds else one.type
        where = f"  ({one.choice} only)" if one.choice else ""
        effect = "" if one.keyed else " Another value does not run a stage again."
        return [f"{one.key}: {kind}; default {one.default}{where}", f"    {one.meaning}{effect}"]

    print("\n".join(line.replace("``", "") for one in found for line in lines(one)))
    return 0
