"""Evaluation backends: ``DummyEvalBackend`` in ``evals.dummy``, ``InspectEvalBackend`` in ``evals.inspect``."""

from mosweep.evals.base import EvalBackend, EvalJob, EvalResults, EvalStatus
from mosweep.evals.dummy import DummyEvalBackend
from mosweep.evals.inspect import InspectEvalBackend

__all__ = ["DummyEvalBackend", "EvalBackend", "EvalJob", "EvalResults", "EvalStatus", "InspectEvalBackend"]
