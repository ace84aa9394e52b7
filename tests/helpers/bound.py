"""What kinds of pairs are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from isovi.spots import Spots


class Tissue(NamedTuple):
    """Arguments of :meth:`isovi.graph.PairKind.fit`."""

    spots: Spots
    columns: Mapping[str, np.ndarray] = MappingProxyType({})
    matrices: Mapping[str, Any] = MappingProxyType({})

    @property
    def coordinates(self) -> np.ndarray:
        return self.spots.coordinates

    @property
    def section(self) -> np.ndarray:
        return self.spots.section
