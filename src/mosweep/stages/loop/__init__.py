"""The evaluation-driven loop."""
