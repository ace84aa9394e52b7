"""Positions of cells from their expression, with regions that cover the truth at a stated rate."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from isovi._repr import ReprMixin, Rows
from isovi._shapes import CellIndexArray
from isovi.data import check
from isovi.data.fingerprint import training_split, warn_unknown
from isovi.data.query import Query, forget, match
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.conformal import novelty_limit
from isovi.reconstruct.anchored import neighbor_distance
from isovi.reconstruct.placer import STRANGE, Method, Regions, SectionPlacer
from isovi.spots import HELDOUT, TRAIN, VALIDATION, Spots
from isovi.tl._features import ExpressionFeatures

BATCH = 1_024  # cells encoded at once
CHUNK = 20_000  # cells whose counts are copied at once
CALIBRATION_SHARE = 0.2  # of a section, where the model has that many validation or unseen cells
MOST = 0.5  # of a section that calibrates, at most: positions are learned from the rest
MOST_LEARNED, MOST_CALIBRATED = 100_000, 20_000  # cells of a section that are used at all; drawn from more
MUCH = 0.1  # share of flagged cells, or of missing genes, that is worth a warning


@dataclass(frozen=True, repr=False)
class PlacedCells(ReprMixin):
    """Where cells of a query are in the reference's tissue.

    Attributes
    ----------
    positions
        In the units of the reference's ``obsm``, shape ``(cell, axis)``.
    radius
        Of the disc (or ball) that covers the truth at the placer's coverage, same unit, shape ``(cell,)``;
        infinite where the reference left fewer cells to calibrate with than the coverage needs.
    flagged
        Whether the cell is unlike the reference, or has no count in the model's genes, shape ``(cell,)``: its
        position means little, and no coverage is promised.
    section
        Name of the section that the position is in, shape ``(cell,)``.
    missing
        Genes of the model that the query lacks.
    novelty
        How unlike the reference the cell is, as a multiple of what is flagged: its distance to the nearest
        reference cells, in the latent or among features of expression, or the part of its expression that
        the reference's components do not tell, whichever is more. Shape ``(cell,)``.
    usual_novelty
        Median of the same over the cells that the reference was calibrated with.
    """

    positions: NDArray[np.float64]
    radius: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    section: NDArray[Any]
    missing: list[str]
    novelty: NDArray[np.float64]
    usual_novelty: float

    def summary(self) -> Rows:
        """What is shown of it, by name."""
        sections = [str(name) for name in dict.fromkeys(self.section.tolist())]
        return {
            "cells": len(self.positions),
            "sections": sections,
            "median radius": float(np.median(self.radius)) if len(self.radius) else np.nan,
            "unlike the reference": self.flagged,
            "missing genes": self.missing,
            "positions": self.positions,
        }

    @property
    def shift(self) -> float:
        """How much farther from the reference the cells are than cells like it; 1 is no farther."""
        return float(np.median(self.novelty)) / self.usual_novelty


@dataclass(frozen=True)
class _Section:
    """One section of the reference, and how its coordinate units become the caller's."""

    name: str
    placer: SectionPlacer
    centre: NDArray[np.float64]
    unit: float


@dataclass(frozen=True)
class _Encoded:
    """What is known of cells: latent, features and strangeness of expression, one row per cell."""

    latent: NDArray
    features: NDArray
    strangeness: NDArray


class SpatialPlacer(BaseEstimator):
    """Places cells without positions among cells with positions.

    A scikit-learn estimator whose samples are the cells of an AnnData. Of a section with more than 100,000
    cells to learn positions from, or 20,000 to calibrate with, so many random ones are used; difficulty and
    novelty of a cell are measured with at most 20,000 of them.

    Parameters
    ----------
    model
        A trained model: :class:`~isovi.IsoSCVI` or another with ``get_latent_representation``.
    method
        ``"joint"`` (default): nearest in the latent and near to a guess by a Gaussian process on expression,
        ``"latent"``, ``"expression"`` or ``"trilateration"``; see
        :class:`isovi.reconstruct.placer.SectionPlacer`.
    n_neighbors
        Reference cells that a position is the mean of.
    coverage
        Share of cells like the reference that their regions are to cover.
    seed
        Draws what is drawn.

    Examples
    --------
    >>> from isovi import IsoSCVI
    >>> from isovi.simulate import simulate
    >>> adata = simulate("layers", n_obs=150, n_genes=30, seed=0)
    >>> reference, query = adata[:120].copy(), adata[120:].copy()
    >>> IsoSCVI.setup_anndata(reference)
    >>> model = IsoSCVI(reference, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> SpatialPlacer(model).fit(reference).predict(query).shape
    (30, 2)
    """

    def __init__(
        self,
        model: Any,
        *,
        method: Method = "joint",
        n_neighbors: int = 10,
        coverage: float = 0.9,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.method = method
        self.n_neighbors = n_neighbors
        self.coverage = coverage
        self.seed = seed

    def fit(self, adata: AnnData, y: object = None, *, calibration: NDArray | None = None) -> SpatialPlacer:
        """Learn from cells whose positions are known.

        Parameters
        ----------
        adata
            Reference with raw counts, and positions where the model's data had them. It is not changed.
        y
            Not used; scikit-learn's pipelines pass it.
        calibration
            Cells that the model was not trained on, a mask of shape ``(cell,)``: regions and flags are
            calibrated with them, positions are learned from the others. By default the model's validation
            cells and, where these are less than a fifth of a section, random ones of those that the model
            never saw. Cells are recognised by their counts, see :func:`training_split`.

        Raises
        ------
        InputError
            If a parameter is out of range, the reference cannot be used, or the model was trained on a cell
            of ``calibration``.

        Warns
        -----
        IsoviWarning
            If a section has too few cells to calibrate with, or it is not known which cells the model was
            trained on; without ``calibration`` radii are then infinite.
        """
        del y
        self._check()
        setup = self.model.registry["setup_args"]
        raw = check.coordinates(adata, setup["spatial_key"])
        codes, names = check.sections(adata, setup["section_key"])
        held = self._calibration(adata, calibration, codes)
        self.used_ = some_of_each(codes, held, self.seed)
        spots = Spots.at(raw, codes, names, units=getattr(self.model, "coordinate_units", None))
        coordinates = spots.coordinates
        if len(self.used_) < adata.n_obs:
            adata, coordinates, codes, held = (of[self.used_] for of in (adata, coordinates, codes, held))
        query = match(adata, self.model.adata, setup)
        self.features_ = ExpressionFeatures(self.seed).fit(query.adata.X[~held])
        seen = self._encode(query)
        latent, features, strangeness = seen.latent, seen.features, seen.strangeness
        self.strangeness_limit_ = novelty_limit(strangeness[held], STRANGE)
        self.sections_ = []
        for code, name in enumerate(names):
            of = codes == code
            placer = SectionPlacer(self.method, self.n_neighbors, self.coverage, self.seed)
            placer.fit(latent[of], features[of], coordinates[of], held[of])
            self.sections_.append(_Section(str(name), placer, spots.centre[code], float(spots.unit[code])))
        self._warn_of_few()
        self.usual_novelty_ = float("nan")
        if held.any():
            own = self._place(_Encoded(latent[held], features[held], strangeness[held]), [])
            self.usual_novelty_ = float(np.median(own.novelty))
        return self

    def predict(self, adata: AnnData) -> NDArray[np.float64]:
        """Positions of the cells, shape ``(cell, axis)``, in the units of the reference's ``obsm``."""
        return self.place(adata).positions

    def place(self, adata: AnnData) -> PlacedCells:
        """Positions, regions and flags.

        Parameters
        ----------
        adata
            Cells with raw counts where the model's data had them; genes are matched by name. Nothing in it is
            changed.

        Raises
        ------
        InputError
            If no gene is shared, or counts are not counts.

        Warns
        -----
        IsoviWarning
            If more than a tenth of the genes are missing or of the cells are unlike the reference, or if some
            are of a batch or category that the model has not seen, or have no count in its genes.
        """
        check_is_fitted(self, "sections_")
        check.names(adata)
        setup, parts, missing = self.model.registry["setup_args"], [], pd.Index([])
        empty: list[NDArray[np.bool_]] = []
        unknown: Counter[tuple[str, str]] = Counter()
        for start in range(0, max(adata.n_obs, 1), CHUNK):
            query = match(adata[start : start + CHUNK], self.model.adata, setup)
            parts.append(self._encode(query))
            missing = query.missing
            empty.append(query.empty)
            unknown.update(query.unknown)
        joined = _Encoded(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))
        placed = self._place(joined, [str(gene) for gene in missing])
        if (n_empty := int(np.concatenate(empty).sum())) > 0:
            placed = replace(placed, flagged=placed.flagged | np.concatenate(empty))
        _warn_of_cells(unknown, n_empty, adata.n_obs)
        _warn_of_shift(placed, self.model.adata.n_vars)
        return placed

    def _place(self, cells: _Encoded, missing: list[str]) -> PlacedCells:
        latent, features = cells.latent, cells.features
        nearest = self._nearest_section(latent)
        n_cells, n_axes = len(latent), len(self.sections_[0].centre)
        positions, radius, novelty = np.empty((n_cells, n_axes)), np.empty(n_cells), np.empty(n_cells)
        for number, section in enumerate(self.sections_):
            of = np.flatnonzero(nearest == number)
            if len(of):
                found: Regions = section.placer.place(latent[of], features[of])
                positions[of] = found.positions * section.unit + section.centre
                radius[of], novelty[of] = found.radius * section.unit, found.novelty
        names = np.array([section.name for section in self.sections_], dtype=object)[nearest]
        novelty = np.maximum(novelty, cells.strangeness / self.strangeness_limit_)
        return PlacedCells(positions, radius, novelty > 1, names, missing, novelty, self.usual_novelty_)

    def _nearest_section(self, latent: NDArray) -> NDArray[np.intp]:
        """Section whose anchors are nearest in the latent."""
        if len(self.sections_) == 1:
            return np.zeros(len(latent), dtype=np.intp)
        anchors = [section.placer.sample_.latent for section in self.sections_]
        apart = [neighbor_distance(known, latent, k=self.n_neighbors) for known in anchors]
        return np.argmin(apart, axis=0)

    def _encode(self, query: Query) -> _Encoded:
        features = self.features_.transform(query.adata.X, query.present)
        strangeness = self.features_.strangeness(query.adata.X, query.present)
        latent = self.model.get_latent_representation(query.adata, batch_size=BATCH)
        forget(self.model, query.adata)
        return _Encoded(latent.astype(np.float64), features, strangeness)

    def _calibration(
        self, adata: AnnData, given: NDArray | None, section: CellIndexArray
    ) -> NDArray[np.bool_]:
        """Cells that calibrate regions and flags, none of which the model was trained on."""
        split = training_split(self.model, adata)
        if not (split != "").all():
            rest = (
                "Radii rest on calibration=."
                if given is not None
                else "Radii are infinite without calibration=."
            )
            warn_unknown(rest, stacklevel=3)
        if given is None:
            return _not_trained_on(split, section, np.random.default_rng(self.seed))
        mask = np.asarray(given)
        is_mask = mask.shape == (adata.n_obs,) and mask.dtype == bool
        if not is_mask or len(np.setdiff1d(section, section[~mask])):
            raise InputError(
                f"calibration has shape {mask.shape}, dtype {mask.dtype} and {int(mask.sum())} cells.",
                f"It is a mask of shape ({adata.n_obs},) that leaves cells of each section to learn from.",
                "Give for example (adata.obs['isovi_split'] == 'validation').to_numpy().",
            )
        if trained := int((split[mask] == TRAIN).sum()):
            raise InputError(
                f"The model was trained on {trained} of the {int(mask.sum())} cells of calibration.",
                "Such cells lie nearer to their positions than new ones do, and radii would be too short.",
                "Leave calibration out, or those that isovi.tl.training_split(model, adata) calls 'train'.",
            )
        return mask

    def _check(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(
                f"method={self.method!r} was asked for.", f"It is one of {get_args(Method)}.", "Give one."
            )
        if self.n_neighbors < 1:
            raise InputError(
                f"n_neighbors={self.n_neighbors} was asked for.", "It must be at least 1.", "Give 10."
            )
        if not 0 < self.coverage < 1:
            raise InputError(
                f"coverage={self.coverage} was asked for.", "It is between 0 and 1.", "Give for example 0.9."
            )

    def _warn_of_few(self) -> None:
        few = [section.name for section in self.sections_ if not np.isfinite(section.placer.factor_)]
        if few:
            warnings.warn(
                f"Sections {few} have too few cells to calibrate with. Their radii are infinite: positions "
                "come without a guarantee. Train with more validation cells, or give calibration=.",
                IsoviWarning,
                stacklevel=3,
            )


def _not_trained_on(
    split: np.ndarray, section: CellIndexArray, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Validation cells of each section, and unseen ones as far as a fifth of the section is not reached."""
    mask = np.zeros(len(split), dtype=bool)
    for code in np.unique(section):
        order = rng.permutation(np.flatnonzero(section == code))
        validation, unseen = (order[split[order] == part] for part in (VALIDATION, HELDOUT))
        wanted = max(round(CALIBRATION_SHARE * len(order)), min(len(validation), int(MOST * len(order))))
        mask[np.concatenate([validation, unseen])[:wanted]] = True
    return mask


def some_of_each(section: CellIndexArray, held: NDArray, seed: int) -> NDArray[np.intp]:
    """Rows of the reference that are used: all of each section, or as many as there may be.

    Parameters
    ----------
    section, held
        Section code of each cell, and whether it calibrates, shape ``(cell,)``.
    seed
        Draws them.
    """
    rng = np.random.default_rng(seed)
    groups = ((held, MOST_CALIBRATED), (~held, MOST_LEARNED))
    rows = [np.flatnonzero((section == code) & of) for code in np.unique(section) for of, _ in groups]
    most = [number for _ in np.unique(section) for _, number in groups]
    some = (one if len(one) <= n else rng.permutation(one)[:n] for one, n in zip(rows, most, strict=True))
    return np.sort(np.concatenate(list(some)))


def _columns(cells: _Encoded) -> tuple[NDArray, NDArray, NDArray]:
    return cells.latent, cells.features, cells.strangeness


def _warn_of_cells(unknown: Mapping[tuple[str, str], int], n_empty: int, n_cells: int) -> None:
    """Say how many cells are of other batches and categories than the model's, or have no counts for it."""
    notes = [
        f'obs["{key}"] of {n} of {n_cells} cells is none that the model has seen: they count as "{most}".'
        for (key, most), n in unknown.items()
    ]
    if n_empty:
        notes.append(f"{n_empty} of {n_cells} cells have no count in the model's genes and are flagged.")
    for note in notes:
        warnings.warn(note, IsoviWarning, stacklevel=3)


def _warn_of_shift(placed: PlacedCells, n_genes: int) -> None:
    flagged, missing = placed.flagged.mean(), len(placed.missing) / n_genes
    if flagged <= MUCH and missing <= MUCH:
        return
    warnings.warn(
        f"{flagged:.0%} of the cells are unlike the reference and {missing:.0%} of the model's genes are "
        f"missing; the cells lie {placed.shift:.2g} times as far from the reference as its own. Positions "
        "and radii hold for cells like the reference. Use a model of the cells' own tissue, or leave flagged "
        "cells out.",
        IsoviWarning,
        stacklevel=3,
    )
