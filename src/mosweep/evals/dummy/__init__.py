"""``eval=dummy``: pretended evaluations."""
