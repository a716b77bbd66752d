"""Evaluation backends: ``DummyEvalBackend`` in ``evals.dummy``, ``InspectEvalBackend`` in
``evals.inspect.backend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosweep.evals.base import EvalBackend, EvalJob, EvalResults, EvalStatus
    from mosweep.evals.dummy.backend import DummyEvalBackend
    from mosweep.evals.inspect.backend import InspectEvalBackend

__all__ = [
    "DummyEvalBackend",
    "EvalBackend",
    "EvalJob",
    "EvalResults",
    "EvalStatus",
    "InspectEvalBackend",
]

_PLACES = {"DummyEvalBackend": "dummy.backend", "InspectEvalBackend": "inspect.backend"}


def __getattr__(name: str) -> Any:
    """Backends are loaded when they are asked for: a job of one loads nothing of the others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'base')}"), name)
