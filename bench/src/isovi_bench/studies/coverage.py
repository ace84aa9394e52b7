"""How often certificates are wrong on real sections: some held-out cells certify, others are the truth."""

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
from isovi.geometry.certificate import CERTIFIED_EPSILON, DELTA, cells_needed
from isovi.geometry.pairs import disjoint_pairs, pair_distances
from isovi.geometry.profile import ProfilePoint, range_edges
from isovi.run import LATENT_KEY, Run
from isovi.spots import HELDOUT
from isovi.tl.certificate import Certificate
from isovi_bench.rendering import markdown

N_SPLITS = 200
TRUE_PAIRS = 4_000  # drawn of the other cells, at least
_ROUNDING = 1e-9


def measure(
    runs: Sequence[Run],
    *,
    n_splits: int = N_SPLITS,
    n_cells: int = cells_needed(CERTIFIED_EPSILON),
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
    For each run, kind of pairs and statement (``"point"`` for ε = 0.1, ``"curve"`` for all ε at once): number
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
    failed = {"point": 0, "curve": 0}
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
        "curve": tuple(one for one in found.curve.curve() if math.isfinite(one.L)),
    }


def true_distances(
    run: Run, cells: NDArray[np.int64], n_cells: int, matched: bool, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latent and tissue distances of pairs that are joined as the certificate's are, of as many cells."""
    edges = range_edges(float(np.ptp(run.spots.coordinates, axis=0).max()))
    joined_at = edges if matched else (0.0, edges[-1])
    latent, spots = np.asarray(run.adata.obsm[LATENT_KEY], dtype=np.float64), run.spots
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


def report(rows: pd.DataFrame) -> str:
    """The rows as Markdown."""
    return markdown(rows)
