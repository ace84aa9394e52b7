"""What plots show, as arrays and plain records: sizes, ranges, ticks, bins; pl and the report draw them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from isovi.geometry.distortion import profile_scale
from isovi.geometry.hilbert import curve_order
from isovi.geometry.pairs import pair_distances, sample_pairs
from isovi.geometry.tissot import TissotEllipses
from isovi.pl import _palette
from isovi.spots import HELDOUT, TRAIN, Spots
from isovi.tl.metrics import is_labelled

EPSILONS = np.round(np.linspace(0.01, 0.5, 50), 2)  # shares of broken pairs at which L is drawn
_FACTORS = np.array([1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100, 200, 500, 1000])  # ticks of L
ANISOTROPY = (1.0, 4.0)  # at the ends of the colours, the same in every plot
ANISOTROPIES = (1, 1.5, 2, 3, 4)  # ticks of the anisotropy
N_ELLIPSES = {"spatial": 1000, "latent": 250}  # most that are drawn
NAMES = {HELDOUT: "held out", TRAIN: "training"}

_N_PAIRS = 50_000  # pairs of a Shepard plot
_BINS, _QUANTILE_BINS, _LEAST_PAIRS = 40, 24, 20
_SHARE = 0.98  # of values that a range of colours holds
_FILL = 0.97  # diameter of a spot as a share of the spacing
_LEAST_FILL = 0.65  # the same, if the spots filled the plot evenly: cells in clusters stay visible
_GAP = 0.08  # between sections, as a share of the largest
_CANDIDATES = 20  # spots considered for each that is drawn, where there are many more
_LONGEST = 3.0  # longest half axis drawn, in median radii


# ---------------------------------------------------------------------------- spots


def diameter(positions: NDArray) -> float:
    """Size at which neighbouring spots nearly touch: from the distances to the four nearest."""
    n = len(positions)
    if n < 2:
        return 1.0
    near = cKDTree(positions).query(positions, min(5, n))[0][:, 1:]
    even = np.sqrt(np.ptp(positions, axis=0).prod() / n)
    return float(max(_FILL * np.median(near), _LEAST_FILL * even)) or 1.0


def side_by_side(spots: Spots) -> tuple[NDArray[np.float64], tuple[tuple[str, float, float], ...]]:
    """First two coordinates with the sections in a grid, and the name of each with the place above it."""
    coordinates = spots.coordinates[:, :2].astype(np.float64)
    codes = np.unique(spots.section)
    if len(codes) == 1:
        return coordinates, ()
    columns = int(np.ceil(np.sqrt(len(codes))))
    extents = np.array([np.ptp(coordinates[spots.section == code], axis=0) for code in codes])
    cell = extents.max(axis=0) * (1 + _GAP) + 2
    titles = []
    for number, code in enumerate(codes):
        members = spots.section == code
        here = coordinates[members]
        corner = np.array([number % columns, number // columns]) * cell
        coordinates[members] = here - here.min(axis=0) + corner + (cell - np.ptp(here, axis=0)) / 2
        top = coordinates[members].min(axis=0)
        titles.append((spots.sections[code], float(corner[0] + cell[0] / 2), float(top[1] - 1)))
    return coordinates, tuple(titles)


def spread(coordinates: NDArray, section: NDArray, n: int) -> NDArray[np.int64]:
    """At most `n` rows, in equal steps along a space-filling curve: each part of a section has its share."""
    if len(section) <= n:
        return np.arange(len(section))
    steps = np.linspace(0, len(section) - 1, n).round().astype(np.int64)
    return np.sort(curve_order(coordinates, section)[steps])


def farthest(positions: NDArray, n: int) -> NDArray[np.int64]:
    """At most `n` rows, each the farthest from all before it: what is drawn there overlaps least."""
    if len(positions) <= n:
        return np.arange(len(positions))
    candidates = np.random.default_rng(0).permutation(len(positions))[: _CANDIDATES * n]
    places = positions[candidates]
    chosen, distance = [0], np.full(len(places), np.inf)
    while len(chosen) < n:
        distance = np.minimum(distance, np.square(places - places[chosen[-1]]).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return candidates[chosen]


def onto_tissue(latent: NDArray, positions: NDArray) -> tuple[NDArray[np.float64], float]:
    """Latent in two principal components, brought onto the positions by similarity Procrustes.

    Parameters
    ----------
    latent
        Shape ``(n, n_latent)``.
    positions
        Shape ``(n, 2)``.

    Returns
    -------
    Shape ``(n, 2)``, and R², the share of the positions' variance explained.
    """
    centre = positions.mean(axis=0)
    target = positions - centre
    centred = latent - latent.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    plane = np.zeros_like(target)
    plane[:, : len(axes)] = centred @ axes.T
    rotation, overlap = orthogonal_procrustes(plane, target)
    size = np.square(plane).sum() or 1.0
    explained = overlap**2 / (size * np.square(target).sum() or 1.0)
    return overlap / size * plane @ rotation + centre, float(explained)


# ---------------------------------------------------------------------------- ranges and ticks


def upwards(values: NDArray) -> tuple[float, float]:
    """Range of colours of values from zero; the largest 2 % are beyond it."""
    return 0.0, _reach(values)


def around(values: NDArray, middle: float | None = None) -> tuple[float, float]:
    """Range of colours around a middle, the median by default; the 2 % farthest from it are beyond it."""
    known = values[np.isfinite(values)]
    if middle is None:
        middle = float(np.median(known)) if len(known) else 0.0
    reach = _reach(np.abs(known - middle))
    return middle - reach, middle + reach


def between(values: NDArray) -> tuple[float, float]:
    """Range of colours of values of any kind; 2 % are beyond either end."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low = float(np.quantile(known, 1 - _SHARE, method="higher"))
    high = float(np.quantile(known, _SHARE, method="lower"))
    return low, high if high > low else low + 1.0


def _reach(values: NDArray) -> float:
    """A quantile that occurs, so that one extreme value does not stretch the range."""
    known = values[np.isfinite(values)]
    return (float(np.quantile(known, _SHARE, method="lower")) if len(known) else 0.0) or 1.0


def factor_axis(values: Iterable[float]) -> tuple[float, NDArray[np.float64]]:
    """End of the axis of L above all of these, and its ticks from 1."""
    known = [value for value in values if np.isfinite(value)]
    top = 1.6 * max(known) if known else 10.0
    return top, _FACTORS[top >= _FACTORS]


def _ticks(low: float, high: float, *, log: bool = False, whole: bool = False) -> NDArray[np.float64]:
    locator: Locator = MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10])
    if log:
        locator = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=6)
    found = np.asarray(locator.tick_values(low, high), dtype=np.float64)
    return found[(found >= low) & (found <= high)]


# ---------------------------------------------------------------------------- categories


@dataclass(frozen=True, eq=False)
class Groups:
    """Categories of spots, in their colours.

    Attributes
    ----------
    names, colors
        Of the categories that occur, in their order. Spots without a label are the last, ``"missing"``.
    codes
        Category of each spot, shape ``(spot,)``.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    codes: NDArray[np.int64]

    @property
    def colors_of_labels(self) -> list[str]:
        """Colours without that of spots without a label, as ``uns["..._colors"]`` has them in scanpy."""
        return [color for name, color in zip(self.names, self.colors, strict=True) if name != "missing"]


def groups(column: pd.Series, stored: Iterable[Any] = ()) -> Groups:
    """Categories of a column, and their colours.

    Parameters
    ----------
    column
        Column of ``obs``. What :func:`isovi.tl.is_labelled` excludes is missing.
    stored
        Colours that the data has, one for each category of the column or for each that occurs.
    """
    given = pd.Categorical(column)
    used = given.remove_unused_categories().categories
    known = used[is_labelled(used)]
    codes = given.set_categories(known).codes.astype(np.int64)
    colors, own = _palette.categorical(len(known)), list(map(str, stored))
    for categories in (given.categories, used):
        if len(own) == len(categories):
            by_name = dict(zip(categories, own, strict=True))
            colors = [by_name[name] for name in known]
    names = list(map(str, known))
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names, colors = [*names, "missing"], [*colors, _palette.MISSING]
    return Groups(tuple(names), tuple(colors), codes)


# ---------------------------------------------------------------------------- training


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of a plot: what its legend says, and its points."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Course:
    """How quantities changed in training: a plot against the epoch, counted from 1.

    Attributes
    ----------
    title, unit
        Of the quantities.
    curves
        Points with a value; on a logarithmic axis with a positive one.
    x_range, y_range, x_ticks, y_ticks
        Ends and ticks of the axes.
    target
        Tolerated value, if any.
    log
        Whether the values' axis is logarithmic.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: NDArray[np.float64]
    y_ticks: NDArray[np.float64]
    target: float | None = None
    log: bool = False


History: TypeAlias = Mapping[str, pd.DataFrame] | pd.DataFrame
_COURSES = {
    "elbo": ("ELBO loss", "nats per spot", {"elbo_train": "training", "elbo_validation": "validation"}),
    "distortion": (
        "relative distortion",
        "",
        {"relative_distortion_train": "training", "relative_distortion_validation": "validation"},
    ),
    "multiplier": (
        "multiplier and scale λ",
        "",
        {"multiplier_train": "multiplier", "distance_scale_train": "scale λ"},
    ),
}


def courses(history: History, target: float | None = None) -> dict[str, Course]:
    """The courses ``"elbo"``, ``"distortion"`` and ``"multiplier"``, as far as the history has them.

    Parameters
    ----------
    history
        A table for each quantity, as in ``model.history_``, or one table with a column for each; indexed by
        the epoch, from 0.
    target
        Tolerated relative distortion.
    """
    found = {}
    for key, (title, unit, names) in _COURSES.items():
        log = key == "multiplier"
        curves = [one for column, name in names.items() for one in _curves(history, column, name, log)]
        if any(len(one.x) for one in curves):
            aim = target if key == "distortion" else None
            found[key] = _course(title, unit, curves, aim, log=log, late=key == "elbo")
    return found


def _curves(history: History, column: str, name: str, log: bool) -> list[Curve]:
    """A curve for each column of a quantity; several have one name."""
    if column not in history:
        return []
    table = pd.DataFrame(history[column]).astype(float)
    shown = table.where(np.isfinite(table) & ((table > 0) if log else True))
    columns = [values.dropna() for _, values in shown.items()]
    return [Curve(name, np.asarray(one.index, dtype=np.float64) + 1, one.to_numpy()) for one in columns]


def _course(
    title: str, unit: str, curves: list[Curve], target: float | None, *, log: bool, late: bool
) -> Course:
    first, last = (float(end([end(one.x) for one in curves if len(one.x)])) for end in (min, max))
    margin = 0.02 * (last - first) or 0.5
    y_range = _y_range(curves, target, log=log, late=late)
    return Course(
        title=title,
        unit=unit,
        curves=tuple(curves),
        x_range=(first - margin, last + margin),
        y_range=y_range,
        x_ticks=_ticks(first, last, whole=True),
        y_ticks=_ticks(*y_range, log=log),
        target=target,
        log=log,
    )


def _y_range(curves: list[Curve], target: float | None, *, log: bool, late: bool) -> tuple[float, float]:
    """All values; of a loss without the first steep epochs: what matters happens after them."""
    shown = [one.y[len(one.y) // 20 :] if late else one.y for one in curves]
    values = np.concatenate([*shown, [] if target is None else [target]])
    low, high = float(values.min()), float(values.max())
    if log:
        return low / 1.3, high * 1.3
    margin = 0.05 * (high - low or abs(high) or 1.0)
    return (low - margin, high + margin) if late else (0.0, 1.05 * high or 1.0)


# ---------------------------------------------------------------------------- Shepard plots


@dataclass(frozen=True, eq=False)
class Density:
    """A Shepard plot: how many pairs there are at each scaled tissue and latent distance.

    Attributes
    ----------
    name
        Of the spots that are paired.
    counts
        Pairs in each bin, shape ``(latent, tissue)``, bins of equal width from 0 to ``limit``.
    limit
        End of both axes, latent length.
    ticks
        Of both axes.
    middle, low, median, high
        Centres of bins of tissue distance, and the 10, 50 and 90 % quantiles of latent distance there.
    """

    name: str
    counts: NDArray[np.int64]
    limit: float
    ticks: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    median: NDArray[np.float64]
    high: NDArray[np.float64]


def densities(latent: Mapping[str, NDArray], tissue: Mapping[str, NDArray]) -> tuple[Density, ...]:
    """Shepard plots with the same limits, of d_Z and λ d_S of the same pairs by name; at least one pair."""
    limit = max(float(np.percentile(values, 99.5)) for values in (*latent.values(), *tissue.values())) or 1.0
    return tuple(_density(name, values, tissue[name], limit) for name, values in latent.items())


def _density(name: str, latent: NDArray, tissue: NDArray, limit: float) -> Density:
    edges = np.linspace(0, limit, _BINS + 1)
    counts = np.histogram2d(latent, tissue, bins=(edges, edges))[0].astype(np.int64)
    ends = np.linspace(0, limit, _QUANTILE_BINS + 1)
    which = np.digitize(tissue, ends) - 1  # beyond the limit: a bin that is left out
    enough = [b for b in range(_QUANTILE_BINS) if np.count_nonzero(which == b) >= _LEAST_PAIRS]
    quantiles = np.array([np.quantile(latent[which == b], [0.1, 0.5, 0.9]) for b in enough])
    middle = (ends[:-1] + ends[1:])[enough] / 2
    return Density(name, counts, limit, _ticks(0.0, limit), middle, *quantiles.reshape(-1, 3).T)


def shepard_pairs(
    latent: ArrayLike, spots: Spots, distance_scale: float | Mapping[str, float | None] | None
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """d_Z and λ d_S of sampled pairs of held-out and of training spots, as far as there are such.

    Parameters
    ----------
    latent
        Latent representation, shape ``(cell, latent)``.
    spots
        Where the spots are, and how they were split.
    distance_scale
        λ, or λ of each section by name; ``None`` where the model has none.

    Returns
    -------
    Two dictionaries, by ``"held out"`` and ``"training"``.
    """
    values, pairs = np.asarray(latent), {}
    for part, name in NAMES.items():
        rows = spots.rows(part)
        source, target = sample_pairs(spots.section[rows], _N_PAIRS, np.random.default_rng(0))
        if len(source):
            pairs[name] = rows[source], rows[target]
    in_latent = {name: pair_distances(values, *ends) for name, ends in pairs.items()}
    apart = {name: pair_distances(spots.coordinates, *ends) for name, ends in pairs.items()}
    fitted = _fit_scale(in_latent["training"], apart["training"]) if "training" in pairs else 1.0
    scale = spot_scale(distance_scale, spots, default=fitted)
    return in_latent, {name: scale[pairs[name][0]] * apart[name] for name in pairs}


def _fit_scale(latent: NDArray, tissue: NDArray) -> float:
    """λ of these pairs, each with weight one."""
    lengths = torch.as_tensor(latent), torch.as_tensor(tissue)
    scale = float(profile_scale(*lengths, torch.ones_like(lengths[1])))
    return scale if np.isfinite(scale) else 1.0


def spot_scale(
    distance_scale: float | Mapping[str, float | None] | None, spots: Spots, *, default: float
) -> NDArray[np.float64]:
    """λ of each spot, shape ``(cell,)``.

    A section that was not trained on, whose λ is missing, ``None`` or NaN, has the mean λ of the others;
    without any, λ is the default.
    """
    if not isinstance(distance_scale, Mapping):
        distance_scale = dict.fromkeys(spots.sections, distance_scale)
    known = {name: float(value) for name, value in distance_scale.items() if value is not None}
    known = {name: value for name, value in known.items() if np.isfinite(value)}
    mean = float(np.mean(list(known.values()))) if known else default
    return np.array([known.get(name, mean) for name in spots.sections])[spots.section]


# ---------------------------------------------------------------------------- ellipses


@dataclass(frozen=True, eq=False)
class EllipseView:
    """Tissot ellipses in a plane.

    Attributes
    ----------
    positions
        Places of all spots, shape ``(cell, 2)``.
    rows
        Spots whose ellipses are drawn, from large to small, so that small ones are on top.
    half_axes
        Of these ellipses, longest first, shape ``(ellipse, 2)``. All are multiplied by one number that gives
        the median ellipse the room of a spot; the longest are cut.
    angle
        Of the longest half axis, radians, shape ``(ellipse,)``.
    """

    positions: NDArray[np.float64]
    rows: NDArray[np.int64]
    half_axes: NDArray[np.float64]
    angle: NDArray[np.float64]


def ellipse_view(
    ellipses: TissotEllipses,
    positions: NDArray,
    latent: NDArray,
    basis: Literal["spatial", "latent"],
    at_most: int | None = None,
) -> EllipseView:
    """Ellipses to draw, spread evenly.

    Parameters
    ----------
    ellipses
        Of all spots.
    positions
        Shape ``(cell, 2)``.
    latent
        Latent representation, shape ``(cell, latent)``, of which ``"latent"`` shows two principal components.
    basis
        Where they are drawn.
    at_most
        Most that are drawn; :data:`N_ELLIPSES` by default.
    """
    half_axes, angle = ellipses.in_tissue()
    if basis == "latent":
        positions, _ = onto_tissue(latent, positions)
        plane = positions - positions.mean(axis=0)
        projection = np.linalg.lstsq(latent - latent.mean(axis=0), plane, rcond=None)[0]
        half_axes, angle = ellipses.in_plane(projection.T)
    rows = np.flatnonzero(np.isfinite(angle))
    rows = rows[farthest(positions[rows], at_most or N_ELLIPSES[basis])]
    fitted = _fitted(half_axes[rows], diameter(positions[rows]) / 2) if len(rows) else half_axes[rows]
    order = np.argsort(-fitted[:, 0], kind="stable")
    return EllipseView(positions, rows[order], fitted[order], angle[rows[order]])


def _fitted(half_axes: NDArray, room: float) -> NDArray[np.float64]:
    """Half axes with a median radius (root mean square) of `room`, none too long to see its neighbours."""
    median = np.median(np.sqrt(np.square(half_axes).mean(axis=1)))
    return np.minimum(half_axes * (room / (median or 1.0)), _LONGEST * room)
