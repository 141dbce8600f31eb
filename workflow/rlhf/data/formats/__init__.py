"""Formats that datasets come in; `source` reads a dataset in one of them."""
