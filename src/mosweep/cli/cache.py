"""``mosweep cache``: inspect the store, and clean it up."""

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
    """List, check, remove, export or import entries of the store."""
    from mosweep.core.paths import home
    from mosweep.core.store import Store

    args = _parser().parse_args(arguments)
    store = Store(args.store.absolute() if args.store else home() / "store")
    return _cache_action(args, store)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mosweep cache", description="Inspect the store, and clean it up."
    )
    parser.add_argument(
        "--store", type=Path, help="the store's folder (default: store/ in MOSWEEP_HOME)"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    filters = argparse.ArgumentParser(add_help=False)
    filters.add_argument("--kind", help="only this kind: data, model, finetune, eval, step, …")
    filters.add_argument("--model", help="only entries whose model's name or id contains this")
    filters.add_argument(
        "--older-than", metavar="AGE", help="only entries older than 90s, 15m, 12h, 7d, 2w"
    )
    filters.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="SWEEP",
        help="only entries that this sweep's trials use; repeatable",
    )
    filters.add_argument(
        "--reachable-from", metavar="KEY", help="only this entry and everything it was made from"
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON")
    confirmation = argparse.ArgumentParser(add_help=False)
    confirmation.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    texts = {
        "list": "list entries, one per line",
        "stats": "entries, bytes and compute time by kind",
        "size": "bytes of the selected entries",
        "verify": "hash every file; move damaged entries to quarantine",
    }
    for action, text in texts.items():
        actions.add_parser(action, help=text, description=text, parents=[filters, output])
    actions.add_parser("show", help="show one entry in full", parents=[output]).add_argument(
        "key", help="a key, a prefix of one, or an atom's id"
    )
    clear = actions.add_parser(
        "clear",
        help="remove entries, except those that a running sweep needs",
        parents=[filters, output, confirmation],
    )
    clear.add_argument("keys", nargs="*", metavar="KEY", help="only the entries with these keys")
    clear.add_argument("--all", action="store_true", help="remove everything")
    actions.add_parser(
        "gc",
        help="remove the folders of failed attempts, with their logs and checkpoints",
        parents=[output, confirmation],
    )
    export = actions.add_parser(
        "export",
        help="pack entries, and everything they were made from, into one archive",
        parents=[filters, output],
    )
    export.add_argument("target", type=Path, metavar="FILE.tar.gz")
    actions.add_parser(
        "import", help="add the entries of an archive", parents=[output]
    ).add_argument("source", type=Path, metavar="FILE.tar.gz")
    return parser


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
        say({"new": new, "known": known}, f"{new} entries imported; {known} already in the store")
        return 0
    if args.action == "gc":
        folders = garbage(store)
        if not folders:
            say({"folders": 0, "bytes": 0}, "nothing to remove")
            return 0
        _ask(
            args,
            f"remove {len(folders)} folders of failed attempts, with their logs and checkpoints?",
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
            else [f"{len(chosen)} entries are intact"]
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
            "mosweep cache clear: select what to remove (--kind, --model, --older-than, "
            "--experiment, KEY …), or pass --all"
        )
    used = in_use(store)
    free = {key: entry for key, entry in chosen.items() if key not in used}
    kept = len(chosen) - len(free)
    note = f"; {kept} more are kept because a running sweep needs them" if kept else ""
    if not free:
        say({"removed": 0, "bytes": 0, "kept": kept}, f"nothing to remove{note}")
        return 0
    size = sum(entry.size for entry in free.values())
    seconds = sum(entry.seconds for entry in free.values())
    kinds = ", ".join(
        f"{count} {kind}"
        for kind, count in sorted(Counter(entry.kind for entry in free.values()).items())
    )
    duration = f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds:.0f} s"
    _ask(
        args,
        f"remove {len(free)} entries ({kinds}; {size_text(size)})? "
        f"Recomputing them takes {duration}{note}.",
    )
    freed = remove(store, free)
    say(
        {"removed": len(free), "bytes": freed, "kept": kept, "seconds": seconds},
        f"removed {len(free)} entries, {size_text(freed)}{note}",
    )
    return 0


def _duration(text: str) -> float:
    """The seconds in ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise UserError(f"--older-than {text}: not an age; valid: 90s, 15m, 12h, 7d, 2w")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _ask(args: argparse.Namespace, question: str) -> None:
    """Return if the user confirms, or has passed ``--yes``."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} This is not a terminal; pass --yes to confirm")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was removed")
