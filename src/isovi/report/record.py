"""The parts of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from isovi.pl._data import Curve

Scale = Literal["category", "sequential", "diverging", "anisotropy"]


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
    rows
        Of the spots in the run.
    section, section_names
        Code of each spot's section, shape ``(spot,)``, and names of the codes, if there are several.
    parts
        Views of the parts of the latent representation, where it has a place and an identity part: name and
        places, float32, shape ``(spot, 2)``.
    images, bars
        Pictures of the tissue, and scale bars, where they are known.
    """

    names: NDArray
    tissue: NDArray[np.float32]
    latent: NDArray[np.float32]
    diameter: float
    sections: tuple[tuple[str, float, float], ...]
    channels: tuple[Channel, ...]
    rows: NDArray[np.int64] | None = None
    section: NDArray[np.int64] | None = None
    section_names: tuple[str, ...] = ()
    parts: tuple[tuple[str, NDArray[np.float32]], ...] = ()
    images: tuple[Image, ...] = ()
    bars: tuple[ScaleBar, ...] = ()


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


# ---------------------------------------------------------------------------- domains and genes


@dataclass(frozen=True)
class Marker:
    """A gene that is higher in a domain than in the others.

    Attributes
    ----------
    domain, gene
        Their names.
    column
        Of the gene, among those of the model.
    score, change
        Welch's t, and log2 fold change of log-normalised counts.
    inside, outside
        Share of the spots in the domain, and of the others, in which it was counted.
    """

    domain: str
    gene: str
    column: int
    score: float
    change: float
    inside: float
    outside: float


@dataclass(frozen=True)
class Dots:
    """A dot plot: markers by domain.

    Attributes
    ----------
    genes, domains
        Their names.
    mean, share
        Mean expression, as a share of that of the highest domain, and share of the spots with counts, by
        domain and gene.
    """

    genes: tuple[str, ...]
    domains: tuple[str, ...]
    mean: list[list[float]]
    share: list[list[float]]


@dataclass(frozen=True)
class Composition:
    """Spots of each domain in each section or label.

    Attributes
    ----------
    what, key
        ``"section"`` or ``"label"``, and the column of ``obs``.
    names
        Of the rows, the first of ``n_names``.
    counts
        Spots by row and domain.
    """

    what: str
    key: str
    names: tuple[str, ...]
    counts: list[list[int]]
    n_names: int


@dataclass(frozen=True)
class Agreement:
    """How well a clustering agrees with the labels."""

    name: str
    ari: float
    nmi: float


@dataclass(frozen=True)
class Option:
    """A candidate for the number of domains, its BIC, its stability where it was measured, and the choice."""

    number: int
    bic: float
    stability: float | None
    chosen: bool


@dataclass(frozen=True)
class Domains:
    """What is said of the domains.

    Attributes
    ----------
    names, colors, sizes
        Of the domains: names, colours, and numbers of spots.
    found_in
        The latent representation that they were found in, in words; empty if that was not kept.
    markers, dots
        Genes that are higher in a domain; none of runs without counts.
    composition
        By section and by label, as far as there are such.
    agreement
        With the labels; empty without labels.
    options
        Candidates for their number; empty if it was given.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    sizes: tuple[int, ...]
    found_in: str
    markers: list[Marker]
    dots: Dots | None
    composition: list[Composition]
    agreement: list[Agreement]
    options: list[Option]


@dataclass(frozen=True, eq=False)
class Genes:
    """Expression of all genes of the model, for the search in the page.

    Attributes
    ----------
    names
        Of the genes.
    matrix
        log1p of scaled counts, float32, shape ``(spot, gene)``, of the spots that are shown.
    """

    names: list[str]
    matrix: sparse.csc_matrix


@dataclass(frozen=True, eq=False)
class Image:
    """A picture under the tissue view, all lengths in the unit of the view.

    Attributes
    ----------
    jpeg
        The picture.
    x, y
        Of its upper left corner.
    width, height
        Of the picture.
    reduced
        How many pixels of the original are one of this, along a side.
    """

    jpeg: bytes
    x: float
    y: float
    width: float
    height: float
    reduced: float


@dataclass(frozen=True)
class ScaleBar:
    """A bar of known length under a section, from ``x`` to ``x + length`` in the tissue view."""

    x: float
    y: float
    length: float
    words: str
