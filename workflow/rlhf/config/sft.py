"""Supervised fine-tuning."""

from __future__ import annotations

from rlhf.config.supervised import SupervisedConfig


class SftConfig(SupervisedConfig):
    """One supervised fine-tuning run."""
