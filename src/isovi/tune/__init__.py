"""Settings searched on validation spots, reported on held-out spots."""
