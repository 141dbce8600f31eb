"""Checks that a machine or a cluster has what the pipeline needs, and what to do if not."""
