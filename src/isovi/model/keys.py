"""Names by which scvi-tools' modules pass tensors around (their own list is private)."""

X = "x"
Z = "z"
QZ = "qz"
PX = "px"
PL = "pl"
PZ = "pz"
LIBRARY = "library"
