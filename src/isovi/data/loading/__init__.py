"""Minibatches: samplers and loaders for counts in memory, on the device, and on disk."""
