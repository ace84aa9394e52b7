"""One adapter per method: from a task to a latent. Importing this package makes them all known."""

from __future__ import annotations

from isovi_bench.methods import components, isometry, local_isometry, neural

__all__ = ["components", "isometry", "local_isometry", "neural"]
