"""Names of the parts that spots are dealt to; ``isovi fit`` writes them to ``obs["isovi_split"]``."""

from __future__ import annotations

SPLIT_KEY = "isovi_split"
TRAIN, VALIDATION, HELDOUT = "train", "validation", "heldout"
