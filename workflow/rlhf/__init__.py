"""Reproducible RLHF: the library behind the pipeline.

Imports go up one list only, of which ``tests/unit/test_layers.py`` keeps the order.
"""

__version__ = "0.1.0"
