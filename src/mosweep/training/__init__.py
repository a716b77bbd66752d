"""Fine-tuning backends."""

from mosweep.training.base import RunStatus, TrainingBackend, TrainingRun

__all__ = ["RunStatus", "TrainingBackend", "TrainingRun"]
