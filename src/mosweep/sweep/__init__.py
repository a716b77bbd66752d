"""A sweep's folder, its plan, and the selection of trials and stages for a command."""
