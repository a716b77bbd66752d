"""``eval=dummy``: simulated evaluations."""
