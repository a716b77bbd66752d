"""The verbs: what can be asked about a sweep, and done with it, once it is there. Those that only
read import nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

__all__ = ["run_verb"]

#: Where each verb's function is.
_MODULES = {
    "looking": ("status", "watch", "summary", "explain"),
    "running": ("plan", "run", "cancel"),
    "reporting": ("contamination", "analyze", "bundle", "verify", "zoo", "doctor"),
    "projecting": ("sync", "ui"),
    "cache": ("cache",),
}
_SAME = {"progress": "status"}


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Run ``mosweep VERB arguments``; the exit status."""
    name = _SAME.get(verb, verb)
    module = next(module for module, names in _MODULES.items() if name in names)
    function: Callable[[Sequence[str]], int] = getattr(import_module(f"mosweep.cli.{module}"), name)
    return function(arguments)
