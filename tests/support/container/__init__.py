"""A real Apptainer, and images built with it."""
