"""Distances between groups of cells, in the tissue's unit, from their latent representation alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from isovi._shapes import CellBoolArray
from isovi.data import check
from isovi.data.fingerprint import training_split, warn_unknown
from isovi.errors import InputError
from isovi.geometry.conformal import conformal_interval
from isovi.geometry.distortion import fitted_scale
from isovi.geometry.pairs import pair_distances
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, VALIDATION
from isovi.tl import _inputs

MIN_DISTANCE = 1e-9


@dataclass(frozen=True)
class _Ruler:
    """What turns latent distances into tissue distances: λ, and the range of true over estimated ones."""

    scale: float
    low: float
    high: float


def pairwise_distance(
    adata: AnnData,
    groups: str,
    *,
    reference: AnnData | None = None,
    use_rep: str | None = None,
    model: Any = None,
    calibration: str = SPLIT_KEY,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    coverage: float = 0.9,
    n_pairs: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Tissue distances between groups of cells, estimated from their latent representation.

    The limits are conformal, calibrated with random pairs of cells of a section. They cover the distance of
    such a pair at the stated rate *on average over all pairs of a section*. For the pairs of two given
    groups, whose cells are not exchangeable with random ones, the rate may be higher or lower.

    Parameters
    ----------
    adata
        Cells with a latent representation; positions are not read unless it is its own reference.
    groups
        Column of ``obs``; cells without a value are left out.
    reference
        Cells with latents of the same model and with positions; ``adata`` by default.
    use_rep
        Key in ``obsm`` of the latents, of both; by default ``"X_isovi_place"``, or ``"X_isovi"`` where the
        latent representation of the reference has no parts.
    model
        The model of the latents. It says which cells of the reference it was trained on
        (:func:`training_split`), whatever the column says; the others calibrate the intervals.
    calibration
        Column of the reference's ``obs`` that is ``"train"`` for cells that the model was trained on. Without
        ``model``, the intervals rest on it.
    spatial_key, section_key
        Positions and sections of the reference; all sections must be in one unit.
    coverage
        Share of random pairs of cells of a section, whatever their groups, whose distance lies within limits.
    n_pairs
        Pairs of cells drawn for each pair of groups.
    seed
        Draws all pairs.

    Returns
    -------
    A row for each pair of groups (also of a group with itself): ``group``, ``other``, ``distance``: the
    median of d_Z / λ over pairs of cells; ``low`` and ``high``: limits for the distance of one pair of cells
    whose d_Z / λ is ``distance``, valid on average over pairs of a section, as said above. In the units of
    ``obsm[spatial_key]``. ``attrs["basis"]`` says from what it is known which cells were trained on:
    ``"model"``, ``"run"`` (which wrote both latent representation and split column) or ``"split column"``.

    Raises
    ------
    InputError
        If a key is missing, no cell is left to calibrate with, or the split column is of another run than the
        latent representation.
    """
    known = adata if reference is None else reference
    use_rep = _inputs.place_rep(known, use_rep)
    trained, basis = _trained(known, calibration, model)
    if model is None:
        basis = _inputs.basis_of_split(
            known, use_rep, calibration, np.flatnonzero(~trained), (VALIDATION, HELDOUT)
        )
    ruler = _ruler(known, use_rep, trained, spatial_key, section_key, coverage, seed)
    codes = check.categories(adata, groups, role="label", allow_missing=True)
    names = check.occurring(adata.obs[groups]).categories
    latent, rng = _inputs.latent(adata, use_rep), np.random.default_rng(seed)
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    rows = []
    for one, other in combinations_with_replacement(range(len(names)), 2):
        apart = _drawn(latent, members[one], members[other], n_pairs, rng)
        distance = float(np.median(apart)) / ruler.scale if len(apart) else np.nan
        limits = (distance * ruler.low, distance * ruler.high)
        rows.append((str(names[one]), str(names[other]), distance, *limits))
    found = pd.DataFrame(rows, columns=["group", "other", "distance", "low", "high"])
    found.attrs["basis"] = basis
    return found


def _trained(adata: AnnData, calibration: str, model: Any) -> tuple[CellBoolArray, str]:
    """Mask of the cells that the model was trained on, and how it is known."""
    split = None if model is None else training_split(model, adata)
    trained, basis = None, "split column"
    if split is not None and (split != "").all():
        trained, basis = split == TRAIN, "model"
    elif calibration in adata.obs:
        trained = (adata.obs[calibration] == TRAIN).to_numpy(dtype=bool)
    if trained is None or trained.all():
        known = "the model" if basis == "model" else f'obs["{calibration}"]'
        raise InputError(
            f"According to {known}, there is no cell that the model was not trained on.",
            "Intervals are calibrated with such cells.",
            "Use the file that isovi fit wrote, or mark training cells as 'train' and the others otherwise.",
        )
    if split is not None and basis != "model":
        warn_unknown(f'The intervals rest on obs["{calibration}"].', stacklevel=3)
    return trained, basis


def _ruler(
    adata: AnnData,
    use_rep: str,
    trained: CellBoolArray,
    spatial_key: str,
    section_key: str | None,
    coverage: float,
    seed: int,
) -> _Ruler:
    positions = check.coordinates(adata, spatial_key)
    section = check.sections(adata, section_key)[0]
    latent = _inputs.latent(adata, use_rep)
    rng = np.random.default_rng(seed)
    scale = fitted_scale(latent[trained], positions[trained], section[trained], rng)
    ends = _disjoint(section, np.flatnonzero(~trained), rng)
    estimate = np.maximum(pair_distances(latent, *ends) / scale, MIN_DISTANCE)
    return _Ruler(scale, *conformal_interval(pair_distances(positions, *ends) / estimate, coverage))


def _disjoint(
    section: NDArray, cells: NDArray, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Cells of one section in random pairs, each cell once, exchangeable with a new random pair."""
    pairs = []
    for code in np.unique(section[cells]):
        own = rng.permutation(cells[section[cells] == code])
        pairs.append(own[: len(own) // 2 * 2].reshape(-1, 2))
    source, target = np.concatenate(pairs).T
    return source, target


def _drawn(
    latent: NDArray, one: NDArray, other: NDArray, n_pairs: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    if not len(one) or not len(other):
        return np.empty(0)
    source, target = rng.choice(one, n_pairs), rng.choice(other, n_pairs)
    kept = source != target
    return pair_distances(latent, source[kept], target[kept])
