"""What the Snakefile imports: slices, jobs, checks before a run. No torch in here."""
