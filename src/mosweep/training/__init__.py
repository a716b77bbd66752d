"""Fine-tuning from Python: the training classes of the backends in ``mosweep.backends``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosweep.backends.dummy.training import DummyTrainingBackend
    from mosweep.backends.openai.training import OpenAITrainingBackend
    from mosweep.backends.tinker.training import TinkerTrainingBackend
    from mosweep.backends.torchtune.training import TorchtuneTrainingBackend
    from mosweep.backends.training import RunStatus, TrainingBackend, TrainingRun

_PLACES = {
    "DummyTrainingBackend": "dummy.training",
    "OpenAITrainingBackend": "openai.training",
    "TinkerTrainingBackend": "tinker.training",
    "TorchtuneTrainingBackend": "torchtune.training",
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

    return getattr(import_module(f"mosweep.backends.{_PLACES.get(name, 'training')}"), name)
