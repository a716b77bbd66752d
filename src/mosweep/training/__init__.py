"""Fine-tuning backends: ``DummyTrainingBackend`` in ``training.dummy``, ``TorchtuneTrainingBackend`` in ``training.torchtune``."""

from mosweep.training.base import RunStatus, TrainingBackend, TrainingRun
from mosweep.training.dummy import DummyTrainingBackend
from mosweep.training.torchtune import TorchtuneTrainingBackend

__all__ = ["DummyTrainingBackend", "RunStatus", "TorchtuneTrainingBackend", "TrainingBackend", "TrainingRun"]
