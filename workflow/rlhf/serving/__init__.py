"""Model stores, the Triton server that serves one, its client, and the check that they agree."""
