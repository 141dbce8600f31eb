"""What several tests start from: projects, tiny models, a SLURM, fakes, tables."""
