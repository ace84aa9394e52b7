"""Certificate of a latent in an AnnData: what holds for cells that nobody has seen yet."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike

from isovi._repr import ReprMixin, Rows
from isovi._shapes import CellIndexArray, CoordinateArray, LatentArray, PairFloatArray, PairIndexArray
from isovi.data.fingerprint import RUN_KEY, fingerprints, training_split, warn_unknown
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.certificate import (
    CERTIFIED_EPSILON,
    DELTA,
    CurveCertificate,
    PointCertificate,
    certify_curve,
    certify_point,
    least_epsilon,
    log_ratios,
)
from isovi.geometry.matchings import approximate_limit, certify_matchings, middle_of
from isovi.geometry.pairs import disjoint_pairs, pair_distances, sample_pairs
from isovi.geometry.profile import DistortionProfile, ProfilePoint, range_edges
from isovi.spots import HELDOUT, SPLIT_KEY, VALIDATION
from isovi.tl import _inputs
from isovi.tl.profile import points

MIN_PAIRS = 3  # disjoint ones of validation cells, if the middle of the interval is chosen on these
SET_ASIDE = 4  # without them, every so many-th held-out cell is used for it, and for nothing else
ALL_PAIRS = 50_000  # pairs of cells of a section, at most, that stand for all of them


@dataclass(frozen=True, repr=False)
class Certificate(ReprMixin):
    """What is certified of L(ε) for pairs of new cells, each statement with confidence 1 - δ.

    Attributes
    ----------
    curve
        Bounds for all ε at once.
    point
        The tighter bound for one ε; ``None`` if none was asked for.
    matched
        Whether the pairs are matched by range, as many at short as at middle and long range; otherwise they
        are random pairs of a section.
    basis
        How it is known that the model never saw the cells: from the ``"model"`` itself; from the ``"run"``
        that wrote both latent representation and split column; from the ``"split column"`` alone, of whatever
        fit that is; or from the ``"caller"``, who gave ``cells``.
    least_epsilon
        Smallest ε that so many cells can certify.
    """

    curve: CurveCertificate
    point: PointCertificate | None
    matched: bool
    basis: str = "split column"
    least_epsilon: float = 1.0

    def summary(self) -> Rows:
        """What is shown of it, by name."""
        about = "matched by range" if self.matched else "at random"
        point = {} if self.point is None else self.point.summary()
        rows = {"pairs of new cells": about, "held out according to": self.basis}
        return {**rows, **point, **self.curve.summary(), **point}

    @property
    def n_pairs(self) -> int:
        """Number of disjoint pairs of held-out cells."""
        return self.curve.n_pairs

    @property
    def delta(self) -> float:
        """Chance that a statement is wrong."""
        return self.curve.delta

    @property
    def eta(self) -> float:
        """η; the curve's ε is the measured one plus 2η."""
        return self.curve.eta

    def for_epsilon(self, epsilon: float) -> ProfilePoint:
        """Certified L at ``epsilon``, from the tighter bound where that is for this ε."""
        if self.point is not None and self.point.epsilon == epsilon:
            return ProfilePoint(self.point.epsilon, self.point.L, self.point.scale)
        return self.curve.for_epsilon(epsilon)


def certificate(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    split_key: str = SPLIT_KEY,
    cells: ArrayLike | None = None,
    model: Any = None,
    matched: bool = True,
    epsilon: float | None = CERTIFIED_EPSILON,
    delta: float = DELTA,
    key_added: str = "isovi_certificate",
    seed: int = 0,
) -> Certificate:
    """Certify how well distances are kept for cells that the model never saw.

    Held-out cells are joined to disjoint pairs within sections, by position alone. The statements are about
    pairs of new cells joined in this way: given the fitted encoder, latents of different cells are taken to
    be independent.

    The interval for one ε has a middle from validation cells, which did not train the model and are
    independent of the held-out ones. Where none are known, a quarter of the held-out cells is set aside for
    it; for pairs matched by range, half of the pairs. Random pairs are then tested in all of their matchings
    (:mod:`isovi.geometry.matchings`), pairs matched by range in one. Beside this guarantee there is an
    approximate limit by a bootstrap over cells, right for many cells.

    Parameters
    ----------
    adata
        Annotated data; only ``uns[key_added]`` is written.
    use_rep, spatial_key, section_key
        As in :func:`distortion_profile`.
    model
        The fitted model. Each cell's latent representation is then a sample of its posterior, and the model
        says which cells it saw (:func:`training_split`), whatever the split column says.
    split_key
        Column of ``obs`` that says ``"heldout"`` for cells that the model did not see, not in training nor to
        stop it; ``isovi fit`` writes it. Without ``model``, the certificate rests on it, and ``basis`` says
        whether the run that wrote it wrote the latent representation as well.
    cells
        Cells to certify on, a boolean mask or row numbers; all held-out ones by default.
    matched
        Join about a third of the pairs at each of short, middle and long range, so that short range counts as
        much as long: the harder statement. Otherwise join cells at random, which makes it a statement about
        the pairs of :func:`distortion_profile`.
    epsilon
        Share of pairs that may break the bounds, for the tighter certificate; ``None`` for the curve alone.
    delta
        Chance that a certificate is wrong.
    key_added
        Key in ``uns`` of the result: ``epsilon``, ``L``, ``scale`` (arrays: the certified curve),
        ``n_pairs``, ``delta``, ``eta``, ``matched``, ``basis``, ``least_epsilon``, ``point`` (``epsilon``,
        ``L``, ``scale``, ``method``, ``approximate_L``, ``approximate_scale``), and the parameters.
    seed
        Joins pairs, draws matchings and resamples.

    Raises
    ------
    InputError
        If it is not known which cells were held out; if the model saw one of `cells`, or one that the split
        column calls held out; if the column is of another run than the latent representation or the model; or
        if there are too few held-out cells: the message says how many it takes.

    Warns
    -----
    IsoviWarning
        If held-out cells are left out because they have the same counts as cells that the model saw, or if it
        is not known which cells it saw, so that the certificate rests on the split column.
    """
    use_rep = _inputs.place_rep(adata, use_rep)
    chosen, others, basis = _unseen(adata, split_key, cells, model)
    if model is None and basis == "split column":
        basis = _inputs.basis_of_split(adata, use_rep, split_key, chosen, (HELDOUT,))
    rows, stored = np.concatenate([chosen, others]), use_rep if model is None else None
    latent, spots = _inputs.latent_spots(adata, stored, spatial_key, section_key, rows)
    if model is not None:
        latent = _inputs.samples(model, adata, spots, 1, seed)[0]
    both, rng = _Cells(latent, spots.coordinates, spots.section), np.random.default_rng(seed)
    heldout, validation = both.take(np.arange(len(chosen))), both.take(np.arange(len(chosen), len(rows)))
    edges = range_edges(float(np.ptp(heldout.coordinates, axis=0).max()))
    pairs = disjoint_pairs(*heldout[1:], edges if matched else (0.0, edges[-1]), rng)
    _require_pairs(len(pairs[0]), len(chosen))
    distances = heldout.distances(*pairs)
    longest = max(edges[-1], float(distances[1].max()))  # a pair across the tissue is longer than either axis
    curve = certify_curve(*distances, *pairs, delta=delta, edges=(*edges[:-1], longest))
    few = not matched and validation.n_pairs < MIN_PAIRS
    tested, aside = heldout.set_aside(rng) if few else (heldout, validation)
    about = curve.profile if matched else None
    n_pairs, halves = (len(pairs[0]), aside.n_pairs < MIN_PAIRS) if matched else (tested.n_pairs, False)
    point = None
    if epsilon is not None:
        middle = None if halves else _middle(aside, about, rng, epsilon)
        asked: dict[str, Any] = {"rng": rng, "epsilon": epsilon, "delta": delta, "middle": middle}
        point = certify_point(*distances, *pairs, **asked) if matched else certify_matchings(*tested, **asked)
        if middle is not None:
            point = replace(point, **_approximate(tested, about, **asked))
    found = Certificate(curve, point, matched, basis, least_epsilon(n_pairs, delta, halves=halves))
    adata.uns[key_added] = as_arrays(found) | _inputs.parameters(use_rep, spatial_key, section_key, seed)
    return found


class _Cells(NamedTuple):
    """Cells as :func:`certify_matchings` takes them."""

    latent: LatentArray
    coordinates: CoordinateArray
    section: CellIndexArray

    def take(self, rows: CellIndexArray) -> _Cells:
        return _Cells(*(values[rows] for values in self))

    @property
    def n_pairs(self) -> int:
        """Number of disjoint pairs in sections."""
        return int((np.unique(self.section, return_counts=True)[1] // 2).sum())

    def distances(self, source: PairIndexArray, target: PairIndexArray) -> tuple[np.ndarray, np.ndarray]:
        """d_Z and d_S of pairs."""
        return pair_distances(self.latent, source, target), pair_distances(self.coordinates, source, target)

    def set_aside(self, rng: np.random.Generator) -> tuple[_Cells, _Cells]:
        """Cells to test, and others to choose the middle on."""
        order = rng.permutation(len(self.section))
        n_aside = len(order) // SET_ASIDE
        return self.take(np.sort(order[n_aside:])), self.take(np.sort(order[:n_aside]))

    def all_pairs(
        self, about: DistortionProfile | None, rng: np.random.Generator
    ) -> tuple[PairIndexArray, PairIndexArray, PairFloatArray]:
        """All pairs, or many, weighted so that they are of the kind that disjoint pairs are.

        These take from each section as many pairs as it has cells for, or, if matched by range, from each
        range the share of the pairs in the bins of their profile, ``about``.
        """
        source, target = sample_pairs(self.section, ALL_PAIRS, rng)
        if about is None:
            cells, pairs = np.bincount(self.section), np.bincount(self.section[source], minlength=1)
            return source, target, (cells[: len(pairs)] / np.maximum(pairs, 1))[self.section[source]]
        weight = np.zeros(len(source))
        apart = pair_distances(self.coordinates, source, target)
        for part in about.bins:
            last = part is about.bins[-1]
            inside = (apart >= part.low) & ((apart < part.high) | last)
            weight[inside] = part.profile.n_pairs / max(int(inside.sum()), 1)
        return source, target, weight


def _middle(
    cells: _Cells, about: DistortionProfile | None, rng: np.random.Generator, epsilon: float
) -> float:
    """Middle of the interval of log ratios, from cells that are not tested."""
    source, target, weight = cells.all_pairs(about, rng)
    if not weight.any():
        return 0.0
    return middle_of(*cells.distances(source, target), weight, epsilon=epsilon)


def _approximate(
    cells: _Cells,
    about: DistortionProfile | None,
    *,
    middle: float,
    rng: np.random.Generator,
    epsilon: float,
    delta: float,
) -> dict[str, Any]:
    """L and λ that a bootstrap over cells gives, for the same middle."""
    source, target, weight = cells.all_pairs(about, rng)
    away = np.abs(log_ratios(*cells.distances(source, target), middle) - middle)
    half = approximate_limit(away, source, target, weight, rng=rng, epsilon=epsilon, delta=delta)
    return {"approximate_L": float(np.exp(2 * half)), "approximate_scale": float(np.exp(middle - half))}


def _unseen(
    adata: AnnData, split_key: str, cells: ArrayLike | None, model: Any
) -> tuple[CellIndexArray, np.ndarray, str]:
    """Rows of the cells to certify on, those of validation cells, and how it is known that they are."""
    split, basis = _split(adata, split_key, model)
    if split is None:
        if cells is None:
            raise InputError(
                f'obs has no column "{split_key}".',
                "A certificate needs cells that the model never saw, and it is not known which those are.",
                f'Write "heldout" for them to adata.obs["{split_key}"], or pass them as cells.',
            )
        return _inputs.chosen_cells(cells, adata.n_obs), np.empty(0, dtype=np.int64), "caller"
    seen = split != HELDOUT
    heldout = adata.obs[split_key] == HELDOUT if split_key in adata.obs else ~seen
    chosen = np.flatnonzero(heldout) if cells is None else _inputs.chosen_cells(cells, adata.n_obs)
    wrong = chosen[seen[chosen]]
    if len(wrong) and (cells is not None or not _are_doubles(adata, model, wrong, ~heldout)):
        raise _seen_cells(len(wrong), len(chosen), basis, split_key, given=cells is not None)
    if len(wrong):
        warnings.warn(
            f"{len(wrong)} of {len(chosen)} held-out cells have the same counts as cells that the model saw, "
            "and are left out.",
            IsoviWarning,
            stacklevel=3,
        )
    chosen = chosen[~seen[chosen]]
    _require_pairs(len(chosen) // 2, len(chosen))
    return chosen, np.flatnonzero(split == VALIDATION), basis


def _split(adata: AnnData, split_key: str, model: Any) -> tuple[np.ndarray | None, str]:
    """How the cells were split, if it is known, and from what it is."""
    split = None if model is None else training_split(model, adata)
    if split is not None and (split != "").all():
        return split, "model"
    found = adata.obs[split_key].to_numpy(dtype=str) if split_key in adata.obs else None
    if split is not None:
        _require_same_run(adata, split_key, model)
        basis = "cells" if found is None else f'obs["{split_key}"]'
        warn_unknown(f"The certificate rests on {basis}.", stacklevel=4)
    return found, "split column"


def _require_same_run(adata: AnnData, split_key: str, model: Any) -> None:
    """Refuse a split column of another run than the model's, which does not know its cells itself."""
    record, own = adata.uns.get(RUN_KEY), getattr(model, "run_id_", None)
    written = record.get("id") if isinstance(record, Mapping) else None
    if split_key != SPLIT_KEY or split_key not in adata.obs or written is None or str(written) == own:
        return
    n_heldout = int((adata.obs[split_key] == HELDOUT).sum())
    raise InputError(
        f'{n_heldout} cells are held out according to obs["{split_key}"], of the run {written}; the model is '
        f"of {'no run' if own is None else f'the run {own}'}, and it is not known which cells it saw.",
        "A split holds for the model of its own run.",
        "Pass the model of that run, or the cells that this one never saw as cells=.",
    )


def _are_doubles(adata: AnnData, model: Any, cells: CellIndexArray, others: ArrayLike) -> bool:
    """Whether each of the cells has the same counts as one of the others, for which it may be taken."""
    prints = None if model is None else fingerprints(model, adata)
    return prints is not None and bool(np.isin(prints[cells], prints[np.asarray(others, dtype=bool)]).all())


def _seen_cells(wrong: int, n_cells: int, basis: str, split_key: str, *, given: bool) -> InputError:
    """The error for cells that the model saw."""
    column = f'that obs["{split_key}"] calls "{HELDOUT}"'
    remedy = {
        "model": f"Take cells that isovi.tl.training_split(model, adata) calls '{HELDOUT}', as cells=.",
        "split column": f"Leave cells out to take those {column}.",
    }
    return InputError(
        f"{wrong} of {n_cells} cells {'' if given else f'{column} '}were trained on, or stopped training.",
        "A certificate holds for cells that the model never saw: geometry of training cells is memorised.",
        remedy[basis],
    )


def _require_pairs(n_pairs: int, n_cells: int) -> None:
    if n_pairs < 1:
        raise InputError(
            f"{n_cells} held-out cells make {n_pairs} pairs.",
            "A certificate needs held-out cells in pairs of one section.",
            "Hold out more cells, for example holdout=0.25.",
        )


def as_arrays(found: Certificate) -> dict[str, Any]:
    """A certificate as numbers and arrays that can be written to a file."""
    point: dict[str, Any] = {}
    if found.point is not None:
        more = {name: getattr(found.point, name) for name in ("method", "approximate_L", "approximate_scale")}
        point = {"point": points([found.for_epsilon(found.point.epsilon)]) | more}
    names = ("n_pairs", "delta", "eta", "matched", "basis", "least_epsilon")
    numbers = {name: getattr(found, name) for name in names}
    return {**points(found.curve.curve()), **numbers, **point}
