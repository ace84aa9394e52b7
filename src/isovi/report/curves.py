"""Curves and pictures of a report that are not the spots: history, profile, Shepard plots, ellipses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isovi import tl
from isovi.geometry.profile import DistortionProfile
from isovi.geometry.tissot import TissotEllipses
from isovi.pl.latent_map import onto_tissue
from isovi.report.record import Curve, Density, Ellipses, Profile, plain_number
from isovi.report.spots import side_by_side, spread
from isovi.run import LATENT_KEY, Run
from isovi.spots import HELDOUT, TRAIN, Spots
from isovi.tl.certificate import Certificate

_EPSILONS = np.round(np.linspace(0.01, 0.5, 50), 2)
_NAMES = {HELDOUT: "held out", TRAIN: "training"}
_QUANTITIES = ("elbo", "relative_distortion", "multiplier", "distance_scale")
_BINS, _MEDIANS, _LEAST_PAIRS = 40, 24, 20
_N_ELLIPSES = {"tissue": 500, "latent": 250}
_LONGEST = 3.0  # longest half axis drawn, in median radii
_N_BACKGROUND = 4_000


# ---------------------------------------------------------------------------- history


def history(run: Run) -> dict[str, list[Curve]]:
    """Curves of training by quantity; empty where a run has none."""
    found = {quantity: _courses(run.history, quantity) for quantity in _QUANTITIES}
    return {quantity: courses for quantity, courses in found.items() if courses}


def _courses(table: pd.DataFrame, quantity: str) -> list[Curve]:
    """Training and validation; the objective's own state is the same for both."""
    parts = {"training": "train", "validation": "validation"}
    if quantity in ("multiplier", "distance_scale"):
        parts = {"": "train"}
    names = {name: f"{quantity}_{part}" for name, part in parts.items()}
    return [
        _curve(name, table.index + 1, table[column])
        for name, column in names.items()
        if column in table and table[column].notna().any()
    ]


def _curve(name: str, x: Any, y: Any) -> Curve:
    return Curve(name, [float(value) for value in x], [plain_number(value) for value in y])


# ---------------------------------------------------------------------------- profile


def profile(run: Run) -> Profile:
    """L(ε) of held-out and training spots, with the confidence band that held-out pairs allow."""
    parts = run.parts()
    asked: dict[str, Any] = {"use_rep": LATENT_KEY, "seed": run.settings.seed, **run.settings.keys}
    curves = [
        _profile_curve(_NAMES[part], tl.distortion_profile(run.adata, cells=cells, **asked))
        for part, cells in parts.items()
    ]
    if HELDOUT not in parts:
        return Profile(curves, [], [], [], 0.0, 0, None)
    found = run.certificate()
    low, high = band(found)
    point = None if found.point is None else (found.point.epsilon, found.point.L)
    return Profile(curves, _EPSILONS.tolist(), low, high, 1 - found.delta, found.n_pairs, point)


def _profile_curve(name: str, measured: DistortionProfile) -> Curve:
    points = measured.curve(_EPSILONS)
    return _curve(name, [p.epsilon for p in points], [p.L for p in points])


def band(found: Certificate) -> tuple[list[float | None], list[float | None]]:
    """Bounds of L at each ε for pairs of new spots, all ε at once.

    Every interval's share of pairs is within 2η of the measured one (Dvoretzky, Kiefer and Wolfowitz), so the
    true L(ε) lies between the measured L(ε + 2η) and L(ε - 2η).
    """
    measured, width = found.curve.profile, 2 * found.eta
    low = [measured.for_epsilon(e + width).L if e + width < 1 else 1.0 for e in _EPSILONS]
    high = [found.curve.for_epsilon(e).L for e in _EPSILONS]
    return [plain_number(value) for value in low], [plain_number(value) for value in high]


# ---------------------------------------------------------------------------- Shepard plots


def shepard(run: Run) -> tuple[Density, ...]:
    """Latent against scaled tissue distances of sampled pairs, held-out spots first."""
    in_latent, in_tissue = run.shepard()
    names = [name for name in ("held out", "training") if name in in_latent and len(in_latent[name])]
    if not names:
        return ()
    both = [values[name] for values in (in_latent, in_tissue) for name in names]
    limit = max(float(np.percentile(values, 99.5)) for values in both) or 1.0
    return tuple(_density(name, in_tissue[name], in_latent[name], limit) for name in names)


def _density(name: str, tissue: NDArray, latent: NDArray, limit: float) -> Density:
    edges = np.linspace(0, limit, _BINS + 1)
    counts = np.histogram2d(latent, tissue, bins=(edges, edges))[0].astype(np.int64)
    ends = np.linspace(0, limit, _MEDIANS + 1)
    which = np.digitize(tissue, ends) - 1
    enough = [b for b in range(_MEDIANS) if np.count_nonzero(which == b) >= _LEAST_PAIRS]
    quantiles = np.array([np.quantile(latent[which == b], [0.1, 0.5, 0.9]) for b in enough])
    middle = (ends[:-1] + ends[1:])[enough] / 2
    return Density(name, counts, limit, middle, *quantiles.reshape(-1, 3).T)


# ---------------------------------------------------------------------------- ellipses


def ellipses(run: Run, spots: Spots, found: TissotEllipses) -> tuple[Ellipses, ...]:
    """Ellipses in tissue and in the latent view, evenly spread over the tissue."""
    valid = np.flatnonzero(found.valid)
    if not len(valid):
        return ()
    latent = np.asarray(run.adata.obsm[LATENT_KEY], dtype=np.float64)
    plane, _ = onto_tissue(latent, spots.coordinates[:, :2].astype(np.float64))
    projection = np.linalg.lstsq(latent - latent.mean(axis=0), plane - plane.mean(axis=0), rcond=None)[0]
    tissue, _ = side_by_side(spots)
    return (
        _view("tissue", tissue, valid, spots, found, None),
        _view("latent", plane, valid, spots, found, projection.T),
    )


def _view(
    name: str,
    centres: NDArray,
    valid: NDArray,
    spots: Spots,
    found: TissotEllipses,
    projection: NDArray | None,
) -> Ellipses:
    shown = valid[spread(spots.coordinates[valid], spots.section[valid], _N_ELLIPSES[name])]
    part = TissotEllipses(found.jacobian[shown], found.half_axes[shown], found.directions[shown])
    half_axes, angle = part.in_tissue() if projection is None else part.in_plane(projection)
    background = centres[spread(spots.coordinates, spots.section, _N_BACKGROUND)]
    return Ellipses(
        name,
        centres[shown].astype(np.float32),
        _fitted(half_axes, centres[shown]).astype(np.float32),
        angle.astype(np.float32),
        part.anisotropy.astype(np.float32),
        background.astype(np.float32),
    )


def _fitted(half_axes: NDArray, centres: NDArray) -> NDArray[np.float64]:
    """Half axes times one number that gives the median ellipse its share of the room; the longest are cut."""
    room = 0.4 * np.sqrt(np.ptp(centres, axis=0).prod() / len(centres)) or 1.0
    median = np.median(np.sqrt(np.square(half_axes).mean(axis=1)))
    return np.minimum(half_axes * (room / (median or 1.0)), _LONGEST * room)
