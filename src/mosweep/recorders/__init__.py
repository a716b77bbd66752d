"""Recorders of a sweep: the journal, the terminal, MLflow, W&B, EvalOps. Disk is the truth."""
