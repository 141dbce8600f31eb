"""Atomic files, digests, documents and random streams: what everything else stands on."""
