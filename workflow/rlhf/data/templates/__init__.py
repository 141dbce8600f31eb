"""Chat templates: how conversations become text."""
