"""The checkpoint folder as a format, engine-free: paths, manifest, model and optimizer shards, outcome."""
