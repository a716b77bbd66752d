"""Fine-tuning from Python: the training classes of the backends in ``mosweep.backends``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosweep.backends.dummy.training import DummyTrainingBackend
    from mosweep.backends.openai.training import OpenAITrainingBackend
    from mosweep.backends.tinker.training import TinkerTrainingBackend
    from mosweep.backends.torchtune.training import TorchtuneTrainingBackend
    from mosweep.backends.training import RunStatus, TrainingBackend, TrainingRun

_MODULES = {
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
    """Import a backend on first use, so that a job imports only its own backend."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mosweep.backends.{_MODULES.get(name, 'training')}"), name)
