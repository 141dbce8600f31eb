"""Adapters that look trained."""

from __future__ import annotations

from pathlib import Path

import torch


class NoTokenizer:
    """A model is published with a tokenizer; these tests need none."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def moved(model: torch.nn.Module, seed: int = 0) -> None:
    """Change all that is trained, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
