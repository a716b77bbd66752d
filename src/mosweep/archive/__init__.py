"""Bundles of sweeps that anyone can verify, and what ``mosweep cache`` does with the store."""
