"""Labels of a tokenized conversation: the id of a token that is trained on, or ``IGNORED``."""

from __future__ import annotations

IGNORED = -100  # as in transformers
