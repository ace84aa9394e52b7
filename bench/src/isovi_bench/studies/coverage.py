"""How often certificates are wrong: in simulations, where the truth is known, and on splits of real sections.

On a real section some held-out cells certify, and the others are the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from isovi import tl
from isovi.errors import InputError
from isovi.geometry.certificate import CERTIFIED_EPSILON, DELTA, cells_needed, log_ratios
from isovi.geometry.matchings import approximate_limit, certify_matchings, middle_of
from isovi.geometry.pairs import disjoint_pairs, pair_distances, sample_pairs
from isovi.geometry.profile import ProfilePoint, distortion_profile, range_edges
from isovi.run import Run
from isovi.spots import HELDOUT
from isovi.tl.certificate import Certificate
from isovi_bench.rendering import markdown

N_SPLITS = 200
N_CELLS = cells_needed(CERTIFIED_EPSILON, halves=True)  # enough without validation cells, too
TRUE_PAIRS = 4_000  # drawn of the other cells, at least, if matched by range
ALL_PAIRS = 200_000  # of the other cells, at most, if at random
SIMULATED_CELLS = (60, 120, 200, 600)  # 30, 60, 100 and 300 disjoint pairs
POPULATION = 1_000  # cells of a simulated population
PARTITIONS = 20  # of a simulated certificate
PAIRS = 10_000  # of a simulated bootstrap, at most
VALIDATION_SHARE = 0.3  # of the number of held-out cells: of a fit that holds a quarter out
_ROUNDING = 1e-9


def measure(
    runs: Sequence[Run],
    *,
    n_splits: int = N_SPLITS,
    n_cells: int = N_CELLS,
    seed: int = 0,
) -> pd.DataFrame:
    """Split the held-out cells of each run many times, and count the certificates that the others refute.

    Parameters
    ----------
    runs
        Runs with held-out cells.
    n_splits
        Number of splits.
    n_cells
        Held-out cells that certify in each split; pairs of the others are the truth.
    seed
        Random seed.

    Returns
    -------
    For each run, kind of pairs and statement (``"point"`` for ε = 0.1, ``"curve"`` for all ε at once,
    ``"approximate"`` for the limit by a bootstrap over cells, which is no guarantee): number
    of held-out cells, of those that certify, of splits, of failures, and of failures that are at most to be
    expected: δ plus two standard deviations of the binomial distribution.

    Raises
    ------
    InputError
        If fewer than twice ``n_cells`` were held out.
    """
    rows: list[dict[str, Any]] = []
    most = math.floor(n_splits * DELTA + 2 * math.sqrt(n_splits * DELTA * (1 - DELTA)))
    for run in runs:
        heldout = run.spots.rows(HELDOUT)
        if len(heldout) < 2 * n_cells:
            raise InputError(
                f"{len(heldout)} cells of {run.folder or run.id} were held out.",
                f"{n_cells} certify in each split, and at least as many others are the truth.",
                "Fit with a larger holdout=, such as 0.6.",
            )
        name = run.folder.name if run.folder else run.id
        for kind, matched in {"at random": False, "matched by range": True}.items():
            failed = failures(run, heldout, matched=matched, n_splits=n_splits, n_cells=n_cells, seed=seed)
            about = {"run": name, "pairs": kind, "held out": len(heldout), "certify": n_cells}
            rows += [
                {**about, "statement": statement, "splits": n_splits, "failures": n, "at most": most}
                for statement, n in failed.items()
            ]
    return pd.DataFrame(rows)


def failures(
    run: Run, heldout: NDArray[np.int64], *, matched: bool, n_splits: int, n_cells: int, seed: int
) -> dict[str, int]:
    """Number of splits in which the other held-out cells refute the certificate, by statement."""
    rng = np.random.default_rng(seed)
    asked: dict[str, Any] = {"matched": matched, **run.settings.keys}
    data = AnnData(obs=run.adata.obs, obsm=dict(run.adata.obsm), uns=dict(run.adata.uns))  # no counts
    failed = {"point": 0, "curve": 0, "approximate": 0}
    for split in range(n_splits):
        order = rng.permutation(heldout)
        found = tl.certificate(data, cells=np.sort(order[:n_cells]), seed=seed + split, **asked)
        distances = true_distances(run, order[n_cells:], n_cells, matched, rng)
        for name, points in statements(found).items():
            failed[name] += any(share_outside(point, *distances) > point.epsilon for point in points)
    return failed


def statements(found: Certificate) -> dict[str, tuple[ProfilePoint, ...]]:
    """What a certificate says, each with its confidence: a point, or the points of the curve together."""
    point = found.point
    assert point is not None  # an ε was asked for
    return {
        "point": (ProfilePoint(point.epsilon, point.L, point.scale),),
        "approximate": (ProfilePoint(point.epsilon, point.approximate_L, point.approximate_scale),),
        "curve": tuple(one for one in found.curve.curve() if math.isfinite(one.L)),
    }


def true_distances(
    run: Run, cells: NDArray[np.int64], n_cells: int, matched: bool, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latent and tissue distances of pairs that are joined as the certificate's are, of as many cells."""
    edges = range_edges(float(np.ptp(run.spots.coordinates, axis=0).max()))
    latent, spots = run.latent("place").astype(np.float64), run.spots
    if not matched and len(spots.sections) == 1:
        joined = tuple(cells[rows] for rows in sample_pairs(spots.section[cells], ALL_PAIRS, rng))
        return pair_distances(latent, *joined), pair_distances(spots.coordinates, *joined)
    joined_at = edges if matched else (0.0, edges[-1])
    parts: list[NDArray[np.int64]] = []
    while sum(part.shape[1] for part in parts) < TRUE_PAIRS:
        some = rng.choice(cells, n_cells, replace=False)
        joined = disjoint_pairs(spots.coordinates[some], spots.section[some], joined_at, rng)
        parts.append(np.stack([some[rows] for rows in joined]))
    source, target = np.concatenate(parts, axis=1)
    return pair_distances(latent, source, target), pair_distances(spots.coordinates, source, target)


def share_outside(point: ProfilePoint, latent: NDArray, tissue: NDArray) -> float:
    """Share of the pairs that violate λ d_S <= d_Z <= L λ d_S; none where L is infinite: nothing is said."""
    if not math.isfinite(point.L):
        return 0.0
    low = point.scale * tissue
    within = (latent >= low * (1 - _ROUNDING)) & (latent <= point.L * low * (1 + _ROUNDING))
    return float(1 - within.mean())


# ---------------------------------------------------------------------------- simulation


def population(kind: str, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latent representation and coordinates of a population of cells of a square tissue.

    ``"noise"``: the position and noise. ``"cells"``: the noise of some cells is many times that of others.
    ``"types"``: positions shrunk about the centre of each cell type. ``"lost"``: a cell in thirty is far off.
    """
    coordinates = rng.uniform(0, 25, (POPULATION, 2))
    latent = np.column_stack([coordinates, np.zeros((POPULATION, 6))])
    noise = np.asarray(rng.normal(size=latent.shape))
    if kind == "cells":
        noise *= np.exp(0.8 * rng.normal(size=(POPULATION, 1)))
    if kind == "types":
        latent = 0.5 * latent + 25 * rng.random((12, 8))[rng.integers(0, 12, POPULATION)]
    if kind == "lost":
        noise[rng.random(POPULATION) < 1 / 30] *= 15
    return latent + {"noise": 4.0, "cells": 3.0, "types": 1.5, "lost": 2.0}[kind] * noise, coordinates


def simulate(
    n_runs: int,
    *,
    kinds: Sequence[str] = ("noise", "cells", "types", "lost"),
    n_cells: Sequence[int] = SIMULATED_CELLS,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw cells of a population many times, and count the statements on L(0.1) that are wrong of it.

    Parameters
    ----------
    n_runs
        Number of draws for each kind of population and number of cells.
    kinds
        Names of populations, see :func:`population`.
    n_cells
        Numbers of held-out cells.
    seed
        Random seed.

    Returns
    -------
    For each kind and number of cells: disjoint pairs; the true L(0.1) and the median of the certified and of
    the approximate one; the shares of draws in which no more than a tenth of the population's pairs break
    them.
    """
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        rng = np.random.default_rng(seed)
        latent, coordinates = population(kind, rng)
        every = np.triu_indices(POPULATION, 1)
        truth = pair_distances(latent, *every), pair_distances(coordinates, *every)
        ratios = np.sort(np.log(truth[0]) - np.log(truth[1]))
        for number in n_cells:
            found = np.array([_draw(latent, coordinates, ratios, number, rng) for _ in range(n_runs)])
            certified, approximate = np.median(found[:, 0]), np.median(found[:, 2])
            rows.append(
                {
                    "population": kind,
                    "cells": number,
                    "pairs": number // 2,
                    "L(0.1)": distortion_profile(*truth).for_epsilon(CERTIFIED_EPSILON).L,
                    "certified": float(certified),
                    "approximate": float(approximate),
                    "certified covers": float(found[:, 1].mean()),
                    "approximate covers": float(found[:, 3].mean()),
                }
            )
    return pd.DataFrame(rows)


def _draw(
    latent: NDArray, coordinates: NDArray, ratios: NDArray, n_cells: int, rng: np.random.Generator
) -> tuple[float, bool, float, bool]:
    """L and whether it is right of the population: certified and approximate."""
    other = rng.integers(0, POPULATION, round(VALIDATION_SHARE * n_cells))
    cells = rng.integers(0, POPULATION, n_cells)
    pairs = sample_pairs(np.zeros(len(other), dtype=np.int64), PAIRS, rng)
    middle = middle_of(pair_distances(latent[other], *pairs), pair_distances(coordinates[other], *pairs))
    section = np.zeros(n_cells, dtype=np.int64)
    held = latent[cells], coordinates[cells]
    point = certify_matchings(*held, section, middle=middle, rng=rng, n_partitions=PARTITIONS)
    pairs = sample_pairs(section, PAIRS, rng)
    apart = pair_distances(held[0], *pairs), pair_distances(held[1], *pairs)
    away = np.abs(log_ratios(*apart, middle) - middle)
    half = approximate_limit(away, *pairs, np.ones(len(away)), rng=rng)
    right = [
        1 - _within(ratios, middle, width) <= CERTIFIED_EPSILON for width in (math.log(point.L) / 2, half)
    ]
    return point.L, right[0], math.exp(2 * half), right[1]


def _within(ratios: NDArray, middle: float, half: float) -> float:
    """Share of pairs drawn of the population, of which some are of a cell with itself, within an interval."""
    low, high = np.searchsorted(ratios, [middle - half - _ROUNDING, middle + half + _ROUNDING])
    same = 1 / POPULATION
    return same + (1 - same) * float(high - low) / len(ratios)


def report(rows: pd.DataFrame) -> str:
    """The rows as Markdown."""
    return markdown(rows)
