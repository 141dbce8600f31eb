"""Reproducible RLHF: the library behind the pipeline.

Data flows one way: config → data → models → training / ppo → serving → stages.
No module imports upward, and nothing but ``stages/`` knows how the workflow lays out files.
"""

__version__ = "0.1.0"
