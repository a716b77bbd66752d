"""``mosweep cache``: what is in the store, and what to do about it."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.cli.options import print_json
from mosweep.core.errors import UserError
from mosweep.sweep.folder import find_sweep

if TYPE_CHECKING:
    from mosweep.core.store import Store

__all__ = ["cache"]


def cache(arguments: Sequence[str]) -> int:
    """Look into the store, clear it, move entries."""
    from mosweep.core.paths import home
    from mosweep.core.store import Store

    parser = argparse.ArgumentParser(
        prog="mosweep cache", description="What is in the store, and what to do about it."
    )
    parser.add_argument(
        "--store", type=Path, help="the store's folder; by default the one in mosweep's home"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--kind", help="data, model, finetune, eval, step, …")
    which.add_argument("--model", help="part of a model's name or id")
    which.add_argument("--older-than", metavar="AGE", help="90s, 15m, 12h, 7d, 2w")
    which.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="SWEEP",
        help="entries that this sweep's trials use",
    )
    which.add_argument(
        "--reachable-from", metavar="KEY", help="this entry, and everything it was made from"
    )
    printed = argparse.ArgumentParser(add_help=False)
    printed.add_argument("--json", action="store_true", help="print JSON")
    sure = argparse.ArgumentParser(add_help=False)
    sure.add_argument("--yes", action="store_true", help="do not ask")
    texts = {
        "list": "one line an entry",
        "stats": "entries, bytes and computing time by kind",
        "size": "bytes of the chosen entries",
        "verify": "hash every file; damaged entries go to quarantine",
    }
    for action, text in texts.items():
        actions.add_parser(action, help=text, description=text, parents=[which, printed])
    actions.add_parser("show", help="one entry, whole", parents=[printed]).add_argument(
        "key", help="a key, its beginning, or an atom's id"
    )
    clear = actions.add_parser(
        "clear",
        help="remove entries; what a running sweep needs stays",
        parents=[which, printed, sure],
    )
    clear.add_argument("keys", nargs="*", metavar="KEY", help="entries by key")
    clear.add_argument("--all", action="store_true", help="everything")
    actions.add_parser(
        "gc",
        help="remove what failed attempts left, including logs and checkpoints",
        parents=[printed, sure],
    )
    export = actions.add_parser(
        "export",
        help="entries, and everything they were made from, as one archive",
        parents=[which, printed],
    )
    export.add_argument("target", type=Path, metavar="FILE.tar.gz")
    actions.add_parser(
        "import", help="add the entries of an archive", parents=[printed]
    ).add_argument("source", type=Path, metavar="FILE.tar.gz")
    args = parser.parse_args(arguments)
    store = Store(args.store.absolute() if args.store else home() / "store")
    return _cache_action(args, store)


def _cache_action(args: argparse.Namespace, store: Store) -> int:
    from mosweep.archive.inventory import Selection, selected, shown, verified
    from mosweep.archive.listing import listing, size_text, statistics, statistics_text
    from mosweep.archive.removal import collect_garbage, garbage
    from mosweep.archive.transfer import export, import_archive

    def say(data: Any, text: str) -> None:
        if args.json:
            print_json(data)
        else:
            print(text)

    if args.action == "show":
        print_json(shown(store, args.key))
        return 0
    if args.action == "import":
        new, known = import_archive(store, args.source)
        say({"new": new, "known": known}, f"{new} entries imported; {known} were there already")
        return 0
    if args.action == "gc":
        folders = garbage(store)
        if not folders:
            say({"folders": 0, "bytes": 0}, "nothing to remove")
            return 0
        _ask(
            args,
            f"remove {len(folders)} folders that failed attempts left, with their logs and "
            "checkpoints?",
        )
        freed = collect_garbage(store, folders)
        say(
            {"folders": len(folders), "bytes": freed},
            f"removed {len(folders)} folders, {size_text(freed)}",
        )
        return 0
    keys = getattr(args, "keys", ())
    sweeps = [find_sweep(place) for place in args.experiment]
    age = _duration(args.older_than) if args.older_than else None
    selection = Selection(args.kind, args.model, age, sweeps, args.reachable_from, keys)
    chosen = selected(store, selection)
    total = sum(entry.size for entry in chosen.values())
    if args.action == "list":
        say([asdict(entry) for entry in chosen.values()], listing(chosen))
    elif args.action == "size":
        say(
            {"entries": len(chosen), "bytes": total},
            f"{len(chosen)} entries, {size_text(total)}",
        )
    elif args.action == "stats":
        data = statistics(store, chosen)
        say(data, statistics_text(data))
    elif args.action == "verify":
        damage = verified(store, chosen)
        lines = (
            [*damage.values(), f"{len(chosen)} entries: {len(damage)} damaged"]
            if damage
            else [f"{len(chosen)} entries are sound"]
        )
        say({"entries": len(chosen), "damaged": damage}, "\n".join(lines))
        return 1 if damage else 0
    elif args.action == "export":
        count = export(store, chosen, args.target)
        say({"entries": count, "file": str(args.target)}, f"{count} entries in {args.target}")
    else:
        return _clear(args, store, selection.everything, chosen, say)
    return 0


def _clear(
    args: argparse.Namespace,
    store: Store,
    everything: bool,
    chosen: Mapping[str, Any],
    say: Callable[[Any, str], None],
) -> int:
    from mosweep.archive.listing import size_text
    from mosweep.archive.removal import in_use, remove

    if everything and not args.all:
        raise UserError(
            "mosweep cache clear: choose what to remove (--kind, --model, --older-than, "
            "--experiment, KEY …), or give --all"
        )
    used = in_use(store)
    free = {key: entry for key, entry in chosen.items() if key not in used}
    kept = len(chosen) - len(free)
    note = f"; {kept} more are kept, because a running sweep needs them" if kept else ""
    if not free:
        say({"removed": 0, "bytes": 0, "kept": kept}, f"nothing to remove{note}")
        return 0
    size, seconds = (
        sum(entry.size for entry in free.values()),
        sum(entry.seconds for entry in free.values()),
    )
    kinds = ", ".join(
        f"{count} {kind}"
        for kind, count in sorted(Counter(entry.kind for entry in free.values()).items())
    )
    again = (
        f"computing them again takes {seconds / 3600:.1f} h"
        if seconds > 3600
        else f"computing them again takes {seconds:.0f} s"
    )
    _ask(args, f"remove {len(free)} entries ({kinds}; {size_text(size)})? {again}{note}.")
    freed = remove(store, free)
    say(
        {"removed": len(free), "bytes": freed, "kept": kept, "seconds": seconds},
        f"removed {len(free)} entries, {size_text(freed)}{note}",
    )
    return 0


def _duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise UserError(f"{text!r} is not an age; valid are 90s, 15m, 12h, 7d, 2w")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _ask(args: argparse.Namespace, question: str) -> None:
    """Go on only if the user says yes, now or by ``--yes``."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to ask at; give --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was removed")
