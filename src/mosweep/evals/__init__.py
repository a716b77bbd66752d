"""Evaluations: their protocols, and two evaluators in ``evals.dummy`` and ``evals.inspect``."""

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

_MODULES = {"DummyEvalBackend": "dummy.backend", "InspectEvalBackend": "inspect.backend"}


def __getattr__(name: str) -> Any:
    """Import a class on first use, so that a job loads only the evaluator that it needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'base')}"), name)
