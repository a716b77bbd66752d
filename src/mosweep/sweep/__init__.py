"""A sweep's folder, its plan, and what a command selects of it."""
