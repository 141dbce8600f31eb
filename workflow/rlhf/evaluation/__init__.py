"""What the trained models are worth: statistics, summaries and sampling reports."""
