"""From the command line to trials: the Hydra application, composition, factors and settings."""
