"""What one trial is told, typed: the config groups, resources, and secrets kept out."""
