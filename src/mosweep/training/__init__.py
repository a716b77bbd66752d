"""Fine-tuning backends, each in a module of its own: dummy, openai, tinker, torchtune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosweep.training.base import RunStatus, TrainingBackend, TrainingRun
    from mosweep.training.dummy import DummyTrainingBackend
    from mosweep.training.openai import OpenAITrainingBackend
    from mosweep.training.tinker import TinkerTrainingBackend
    from mosweep.training.torchtune import TorchtuneTrainingBackend

_PLACES = {
    "DummyTrainingBackend": "dummy",
    "OpenAITrainingBackend": "openai",
    "TinkerTrainingBackend": "tinker",
    "TorchtuneTrainingBackend": "torchtune",
}

__all__ = [
    "DummyTrainingBackend",
    "OpenAITrainingBackend",
    "RunStatus",
    "TinkerTrainingBackend",
    "TorchtuneTrainingBackend",
    "TrainingBackend",
    "TrainingRun",
]


def __getattr__(name: str) -> Any:
    """Backends are loaded when they are asked for: a job of one loads nothing of the others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'base')}"), name)
