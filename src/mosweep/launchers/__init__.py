"""Ways to run the missing stages of a plan."""
