"""Where base models and datasets come from: hub, addresses, locks, tokenizers."""
