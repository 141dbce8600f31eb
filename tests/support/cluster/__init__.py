"""A real SLURM on this machine, and what is done to runs on it."""
