"""Settings searched on validation spots, reported on held-out spots.

Ray Tune runs the trials. ``scvi.autotune``, which also builds on it, optimises one number that the trainer
logs; here two metrics that need the trained model are traded against each other, on splits that are the same
for all trials, and an interrupted search can be resumed.
"""

from __future__ import annotations

from isovi.tune.result import Tuned
from isovi.tune.search import tune

__all__ = ["Tuned", "tune"]
