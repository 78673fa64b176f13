"""Everything on disk: checkpoints, manifests, logs and caches."""
