"""``eval=inspect``: evaluations with Inspect AI."""
