"""What a running job needs: files, checkpoints, signals, determinism, progress, metrics."""
