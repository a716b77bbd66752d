"""Recorders of a sweep: the journal, the terminal, MLflow, W&B and EvalOps."""
