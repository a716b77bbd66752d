"""What is printed about sweeps, from records alone."""
