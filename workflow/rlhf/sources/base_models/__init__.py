"""Turn a model source into one plain Hugging Face folder."""
