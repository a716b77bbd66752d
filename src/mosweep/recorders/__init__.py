"""Listeners to a sweep: the journal, the terminal, MLflow. Projections, never the truth."""
