"""``backend=dummy``: the dry run."""
