"""``hydra/launcher=slurm``: the missing stages as arrays of Slurm jobs."""
