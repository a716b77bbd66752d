"""Evaluation backends."""

from mosweep.evals.base import EvalBackend, EvalJob, EvalResults, EvalStatus

__all__ = ["EvalBackend", "EvalJob", "EvalResults", "EvalStatus"]
