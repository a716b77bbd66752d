"""Sending the rounds of a loop to EvalOps (https://evalops.dev)."""

from mosweep.recorders.evalops.recorder import EvalOpsRecorder
from mosweep.recorders.evalops.service import api_key

__all__ = ["EvalOpsRecorder", "api_key"]
