"""Colour palettes that are safe for colour vision deficiency."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

# The seven colours of Okabe and Ito, then colours that are farthest in Oklab from all preceding ones, with
# normal vision and with simulated deuteranopia and protanopia.
CATEGORICAL = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#61180C"),
    *("#311886", "#0000FF", "#92DBB6", "#864955", "#8679FF", "#6118B6", "#C20000", "#B6CEFF"),
    *("#553155", "#92B686", "#B63192", "#DB0CCE", "#E7C26D", "#496100", "#6DC2C2", "#922479"),
)
MISSING = "#D0D0D0"
TRAINING, HELDOUT, THIRD = (CATEGORICAL[i] for i in (0, 5, 2))
LINES = {
    "training": TRAINING,
    "validation": HELDOUT,
    "held out": HELDOUT,
    "multiplier": THIRD,
    "scale λ": TRAINING,
}  # colours of curves by name

_MAPS = {
    "sequential": ("viridis", 0.0, 1.0),
    "diverging": ("coolwarm", 0.0, 1.0),
    "anisotropy": ("plasma", 0.05, 0.88),
}

# Degrees in Oklab, from amber over pink and violet to blue; everyone can distinguish the two ends.
_HUES = (75.0, -105.0)
_LIGHTNESS = (0.86, 0.48)
_CHROMA = 0.125
# Oklab to linear sRGB (Ottosson 2020): to cube roots of cone responses, then from their cubes to RGB.
_TO_CONES = np.array([[1, 0.3963378, 0.2158038], [1, -0.1055613, -0.0638542], [1, -0.0894842, -1.2914855]])
_TO_RGB = np.array(
    [
        [4.0767417, -3.3077116, 0.2309699],
        [-1.2684380, 2.6097574, -0.3413194],
        [-0.0041961, -0.7034186, 1.7076147],
    ]
)


def categorical(n: int) -> list[str]:
    """`n` colours; more than the 24 of the palette are taken from a continuous colour map."""
    if n <= len(CATEGORICAL):
        return list(CATEGORICAL[:n])
    return [to_hex(color) for color in mpl.colormaps["turbo"](np.linspace(0, 1, n))]


def ramp(scale: str, places: NDArray) -> NDArray[np.float64]:
    """Colours, shape ``(..., 4)``, at places from 0 to 1 along one of the scales of numbers."""
    name, low, high = _MAPS[scale]
    return mpl.colormaps[name](low + (high - low) * places)


def position_colors(positions: NDArray) -> NDArray[np.float64]:
    """Colours by position, shape ``(n, 3)``: hue by the first coordinate, lightness by the second."""
    low, high = positions[:, :2].min(axis=0), positions[:, :2].max(axis=0)
    share = (positions[:, :2] - low) / np.where(high > low, high - low, 1)
    hue = np.deg2rad(_HUES[0] + (_HUES[1] - _HUES[0]) * share[:, 0])
    lightness = _LIGHTNESS[0] + (_LIGHTNESS[1] - _LIGHTNESS[0]) * share[:, 1]
    return _from_oklab(np.stack([lightness, _CHROMA * np.cos(hue), _CHROMA * np.sin(hue)], axis=1))


def _from_oklab(lab: NDArray) -> NDArray[np.float64]:
    linear = np.clip((lab @ _TO_CONES.T) ** 3 @ _TO_RGB.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
