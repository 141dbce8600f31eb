"""The report: one self-contained HTML page about a run and all that it came from."""
