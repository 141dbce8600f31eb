"""Supervised fine-tuning."""

from __future__ import annotations

from rlhf.config.offline import OfflineConfig, StartConfig


class SftConfig(OfflineConfig, StartConfig):
    """One supervised fine-tuning run."""
