"""Where an artifact came from: digests, manifests, lineage and verification."""
