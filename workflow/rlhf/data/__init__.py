"""From a file in some format to tokens: formats, rows, splits, templates, encoding."""
