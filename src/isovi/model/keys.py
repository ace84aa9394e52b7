"""Names by which scvi-tools' modules pass tensors around (their own list is private)."""

from __future__ import annotations

X = "x"
Z = "z"
QZ = "qz"
PX = "px"
PL = "pl"
PZ = "pz"
LIBRARY = "library"
