"""The parts of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isovi.pl._data import Curve

Status = Literal["good", "caution", "bad", "note"]
Scale = Literal["category", "sequential", "diverging", "anisotropy"]


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict.

    Attributes
    ----------
    status
        Whether it is good news; ``"note"`` is neither.
    title
        The news in a few words.
    text
        What stands behind it, in plain words with numbers.
    """

    status: Status
    title: str
    text: str


@dataclass(frozen=True)
class MetricRow:
    """One row of the table of metrics.

    Attributes
    ----------
    key, name
        Its name in ``metrics.json``, and in words.
    better
        ``"lower"`` or ``"higher"``.
    heldout, train, plain
        Its value on held-out and training spots of the run, and on held-out spots of the plain backbone;
        ``None`` where there is none.
    """

    key: str
    name: str
    better: Literal["lower", "higher"]
    heldout: float | None
    train: float | None
    plain: float | None


@dataclass(frozen=True)
class Profile:
    """L(ε) by kind of spots, with what is certified.

    Attributes
    ----------
    curves
        Of held-out and of training spots, as far as there are such.
    low, high
        The confidence band of the held-out curve for pairs of new spots, for all ε at once; NaN or infinite
        where so few pairs give no bound. ``None`` without held-out spots.
    confidence
        Of the band, and of the point.
    n_pairs
        Disjoint pairs of held-out spots on which the band stands.
    point
        The tighter bound for one ε: that ε and the L; ``None`` if there is none.
    """

    curves: list[Curve]
    low: Curve | None
    high: Curve | None
    confidence: float
    n_pairs: int
    point: tuple[float, float] | None


@dataclass(frozen=True)
class Channel:
    """A colouring of the spots.

    Attributes
    ----------
    label
        What it is called.
    group
        Heading under which it is offered.
    scale
        Kind of colours.
    values
        float32 values, shape ``(spot,)``, or codes of ``categories``, uint8 or uint16.
    low, high
        Values at the ends of the colours.
    categories, colors
        Names of the codes, and their colours; empty if values are numbers.
    about
        What the colours mean, in a sentence.
    """

    label: str
    group: str
    scale: Scale
    values: NDArray
    low: float
    high: float
    categories: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Views:
    """The spots of the interactive views.

    Attributes
    ----------
    names
        Of the spots, shape ``(spot,)``.
    tissue, latent
        Places in the two views, float32, shape ``(spot, 2)``.
    diameter
        Of a spot in the tissue view, in its unit.
    sections
        Name of each section and where to write it, if there are several.
    channels
        Colourings, the first of which is shown first.
    """

    names: NDArray
    tissue: NDArray[np.float32]
    latent: NDArray[np.float32]
    diameter: float
    sections: tuple[tuple[str, float, float], ...]
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Ellipses:
    """Ellipses to draw, all in the unit of their view.

    Attributes
    ----------
    name
        Of the view.
    centres
        float32, shape ``(ellipse, 2)``.
    half_axes
        Longest first, float32, shape ``(ellipse, 2)``.
    angle
        Of the longest half axis, radians, float32, shape ``(ellipse,)``.
    anisotropy
        Longest over shortest half axis of the latent itself, float32, shape ``(ellipse,)``.
    background
        Some places of spots, float32, shape ``(spot, 2)``.
    """

    name: str
    centres: NDArray[np.float32]
    half_axes: NDArray[np.float32]
    angle: NDArray[np.float32]
    anisotropy: NDArray[np.float32]
    background: NDArray[np.float32]


def plain_number(value: Any) -> float | None:
    """A number as JSON can hold it: ``None`` if it is missing or not finite."""
    return None if value is None or not np.isfinite(value) else float(value)
