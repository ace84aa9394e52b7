"""Shape names for annotations, in one place.

``pair`` pairs of spots, ``cell`` spots or cells, ``latent`` latent dimensions, ``dimension`` those of any
space, ``axis`` tissue axes (2 or 3), ``gene`` genes, ``section`` tissue sections.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

PairFloats = Float[Tensor, "pair"]
PairIndices = Int[Tensor, "pair"]
CellIndices = Int[Tensor, "cell"]
Coordinates = Float[Tensor, "cell axis"]
Latent = Float[Tensor, "cell latent"]
Points = Float[Tensor, "cell dimension"]
Scalar = Float[Tensor, ""]
SectionFloats = Float[Tensor, "section"]

PairIndexArray = Int[np.ndarray, "pair"]
CellIndexArray = Int[np.ndarray, "cell"]
CoordinateArray = Float[np.ndarray, "cell axis"]
LatentArray = Float[np.ndarray, "cell latent"]
PairFloatArray = Float[np.ndarray, "pair"]
CellFloatArray = Float[np.ndarray, "cell"]
CellBoolArray = Bool[np.ndarray, "cell"]
