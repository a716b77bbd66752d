"""Runs a launch: the only path from a plan to recorded results."""
