"""Recording sweeps in MLflow."""

from mosweep.recorders.mlflow.projection import MARKER, MLflowRecorder, project

__all__ = ["MARKER", "MLflowRecorder", "project"]
