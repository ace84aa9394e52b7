"""A certificate from all ways of joining cells to pairs, and an approximate limit by a bootstrap over cells.

**Theorem.** Let z_1, ..., z_N be independent cells, I an interval of log ratios that does not depend on them,
and θ the share of pairs of new cells whose log ratio lies outside I. A *matching* joins the cells to
n = ⌊N / 2⌋ disjoint pairs, whatever their values. For 0 < κ <= 1 let a pair score 1 + κ ε / (1 - ε) if it
lies inside I and 1 - κ if it lies outside, let a matching score the product over its pairs, and let E be the
mean score of any number of matchings. If θ >= ε, then P(E >= 1 / δ) <= δ.

*Proof.* The pairs of one matching are independent, and each scores 1 + κ (ε - θ) / (1 - ε) <= 1 on average,
so a matching scores at most 1 on average. So does the mean over matchings, however they depend on each other:
it is an e-value (Vovk & Wang 2021). It is Hoeffding's (1963) way with U-statistics, in which the exponential
of a mean is bounded by the mean of exponentials, without the step that loses most. Markov's inequality
concludes. If pairs are joined within sections whose shares outside differ, θ is their mean over the n pairs,
and the product of their mean scores is at most that of equal ones, by the inequality of arithmetic and
geometric means. ∎

Intervals of half-width h about a fixed middle are nested, and E grows with h. Let h* be the least half-width
with θ <= ε. The certificate takes the least h with E >= 1 / δ. It is wrong only if E >= 1 / δ for some
h < h*; as E grows with h, the chance of this is the limit for h ↑ h* of chances that are at most δ.

With κ = 1, E is the share of matchings without a pair outside, divided by the chance (1 - ε)^n of such a
matching. It takes no more cells than an exact binomial test, but does not depend on the luck of one matching.
Averaging helps where a pair lies outside because of both of its cells together rather than of one alone: then
the share outside varies less from sample to sample than that of independent pairs, for which other bounds
have to allow. In the latent representations of four sections (her2st D1, G2 and H1, STARmap BZ5), less than a
tenth of a pair's variance is due to one of its cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from isovi._shapes import (
    CellBoolArray,
    CellIndexArray,
    CoordinateArray,
    LatentArray,
    PairFloatArray,
    PairIndexArray,
)
from isovi.errors import InputError
from isovi.geometry.certificate import (
    CERTIFIED_EPSILON,
    DELTA,
    PointCertificate,
    check_delta,
    log_ratios,
    require_pairs,
)
from isovi.geometry.pairs import pair_distances
from isovi.geometry.profile import distortion_profile

N_PARTITIONS = 100
"""Random partitions of the cells into groups, over all matchings within which the score is averaged."""

N_RESAMPLES = 200
"""Resamples of the cells by the bootstrap."""

_GROUP = 6  # cells of a group: 15 matchings
_CELLS = 200_000  # cells of all partitions, at most, unless there is one alone
_SHARE = 0.25  # of the variance of independent pairs that is left, where κ is chosen for many pairs


def certify_matchings(
    latent: LatentArray,
    coordinates: CoordinateArray,
    section: CellIndexArray,
    *,
    middle: float,
    rng: np.random.Generator,
    epsilon: float = CERTIFIED_EPSILON,
    delta: float = DELTA,
    trained: CellBoolArray | None = None,
    n_partitions: int = N_PARTITIONS,
) -> PointCertificate:
    """Certify L for one ε and random pairs of held-out cells of a section, from all of their matchings.

    See the theorem at the top of this module.

    Parameters
    ----------
    latent
        Latent representation of held-out cells, shape ``(cell, latent)``.
    coordinates
        Their coordinates, shape ``(cell, axis)``.
    section
        Section code of each cell.
    middle
        Middle of the interval of log ratios, from other cells than these: see :func:`middle_of`.
    rng
        Random generator that draws matchings.
    epsilon
        Share of pairs that may violate the bounds.
    delta
        Probability that the certificate is wrong.
    trained
        Whether each cell was used in training or for early stopping; there may be no such cell.
    n_partitions
        Random partitions of the cells into groups of six, over all matchings within which the score is
        averaged; fewer for many cells. The certificate is as valid with fewer, but depends more on the seed.

    Raises
    ------
    InputError
        If a cell was trained on, ``delta`` is not between 0 and 1, or there are too few cells: see
        :func:`isovi.geometry.certificate.cells_needed`.
    """
    check_delta(delta)
    if trained is not None and trained.any():
        raise InputError(
            f"{int(trained.sum())} of the {len(trained)} cells are training cells.",
            "A certificate is valid only for cells that the model never saw.",
            "Hold out cells from the fit and certify on those.",
        )
    parts = [np.flatnonzero(section == code) for code in np.unique(section)]
    n_pairs = sum(len(part) // 2 for part in parts)
    require_pairs(n_pairs, epsilon, delta)
    n_partitions = max(1, min(n_partitions, _CELLS // len(section)))
    groups = [
        _away(latent, coordinates, cells, middle)
        for part in parts
        for cells in _groups(part, n_partitions, rng)
    ]
    kappa = min(1.0, math.sqrt(-2 * math.log(delta) * (1 - epsilon) / (_SHARE * epsilon * n_pairs)))
    candidates = np.unique(np.concatenate([away.ravel() for away in groups]))
    first, last = 0, len(candidates)  # the least candidate that is wide enough is among these
    while first < last:
        tried = (first + last) // 2
        if _log_score(groups, candidates[tried], epsilon, kappa) >= -math.log(delta):
            last = tried
        else:
            first = tried + 1
    half = float(candidates[first]) if first < len(candidates) else math.inf
    return PointCertificate(
        float(epsilon),
        math.exp(2 * half) if half < math.inf else math.inf,
        math.exp(middle - half),
        float(delta),
        n_pairs,
        "all matchings",
    )


def _groups(cells: CellIndexArray, n_partitions: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random partitions of an even number of the cells, shape (partition, group, cell of the group)."""
    even = len(cells) - len(cells) % 2
    drawn = np.stack([rng.permutation(cells)[:even] for _ in range(n_partitions)])
    full = even - even % _GROUP
    for part, size in ((drawn[:, :full], _GROUP), (drawn[:, full:], even - full)):
        if part.shape[1]:
            yield part.reshape(n_partitions, -1, size)


def _away(latent: LatentArray, coordinates: CoordinateArray, cells: np.ndarray, middle: float) -> np.ndarray:
    """How far the log ratio of each pair of each group is from the middle: (partition, group, pair)."""
    source, target = np.triu_indices(cells.shape[2], 1)
    pairs = cells[..., source].ravel(), cells[..., target].ravel()
    found = log_ratios(pair_distances(latent, *pairs), pair_distances(coordinates, *pairs), middle)
    return np.abs(found - middle).reshape(*cells.shape[:2], len(source))


def _log_score(groups: list[np.ndarray], half: float, epsilon: float, kappa: float) -> float:
    """Logarithm of E: mean over partitions of the product over groups of their matchings' mean score."""
    total = np.zeros(len(groups[0]))
    for away in groups:
        joined = _matchings(away.shape[2])
        n_pairs = int(joined[:, 0].sum())
        outside = (away > half).reshape(-1, away.shape[2]).astype(np.float32) @ joined
        number = np.arange(n_pairs + 1)
        score = (1 + kappa * epsilon / (1 - epsilon)) ** (n_pairs - number) * (1 - kappa) ** number
        mean = score[outside.astype(np.int8)].mean(axis=1)
        with np.errstate(divide="ignore"):
            total += np.log(mean).reshape(away.shape[:2]).sum(axis=1)
    return float(logsumexp(total) - math.log(len(total)))


@lru_cache
def _matchings(n_pairs: int) -> np.ndarray:
    """Whether each pair of an even number of cells is in each of their matchings, shape (pair, matching)."""
    n_cells = math.isqrt(2 * n_pairs) + 1
    place = np.zeros((n_cells, n_cells), dtype=np.int64)
    place[np.triu_indices(n_cells, 1)] = np.arange(n_pairs)

    def joined(rest: tuple[int, ...]) -> Iterator[list[np.int64]]:
        if not rest:
            yield []
        for other in rest[1:]:
            for more in joined(tuple(cell for cell in rest[1:] if cell != other)):
                yield [place[rest[0], other], *more]

    rows = list(joined(tuple(range(n_cells))))
    found = np.zeros((n_pairs, len(rows)), dtype=np.float32)
    for column, pairs in enumerate(rows):
        found[pairs, column] = 1
    return found


# ---------------------------------------------------------------------------- middle and bootstrap


def middle_of(
    latent: PairFloatArray,
    tissue: PairFloatArray,
    weight: PairFloatArray | None = None,
    *,
    epsilon: float = CERTIFIED_EPSILON,
) -> float:
    """Middle of the interval of log ratios to certify on other cells.

    The mean of the middles of the shortest intervals for several ε' up to ``epsilon``: a certificate ends
    further out than the shortest interval for ``epsilon`` itself does, and the mean is steadier than one.

    Parameters
    ----------
    latent, tissue, weight
        d_Z, d_S and weight of pairs of cells that are not certified on.
    epsilon
        Share of pairs that may violate the bounds.
    """
    profile = distortion_profile(latent, tissue, weight)
    ends = np.array([profile.interval(share * epsilon) for share in np.linspace(0.2, 1, 9)])
    finite = ends[np.isfinite(ends).all(axis=1)]
    if len(finite):
        return float(finite.mean())
    return float(np.median(profile.log_ratio)) if len(profile.log_ratio) else 0.0


def approximate_limit(
    away: PairFloatArray,
    source: PairIndexArray,
    target: PairIndexArray,
    weight: PairFloatArray,
    *,
    rng: np.random.Generator,
    epsilon: float = CERTIFIED_EPSILON,
    delta: float = DELTA,
) -> float:
    """Approximate upper limit of the half-width that a share 1 - ε of all pairs keeps: no guarantee.

    Cells are resampled with replacement, and with them their pairs (a cell drawn twice makes no pair with
    itself): pairs share cells, and a bootstrap over pairs would take them for independent. The logarithm of
    the half-width is taken to be normal with the bootstrap's standard deviation; the limit is the measured
    half-width, that many standard deviations up. It covers 1 - δ for many cells; docs/certificate.md says how
    often it does for few.

    Parameters
    ----------
    away
        How far the log ratio of each pair is from a middle that other cells gave, shape ``(pair,)``.
    source, target
        Cells of each pair; all pairs of the cells or many of them.
    weight
        Weight of each pair.
    rng
        Random generator that resamples.
    epsilon, delta
        As for :func:`certify_matchings`.
    """
    order = np.argsort(away)
    away, source, target, weight = away[order], source[order], target[order], weight[order]
    n_cells = int(max(source.max(), target.max())) + 1

    def half(mass: np.ndarray) -> float:
        grown = np.cumsum(mass)
        return float(away[min(np.searchsorted(grown, (1 - epsilon) * grown[-1]), len(away) - 1)])

    measured = half(weight)
    drawn = [
        half(weight * times[source] * times[target])
        for times in rng.multinomial(n_cells, np.full(n_cells, 1 / n_cells), N_RESAMPLES)
        if (times[source] * times[target]).any()
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.std(np.log(drawn)) if drawn else np.nan
    if measured <= 0 or not np.isfinite(measured):
        return measured
    return float(measured * np.exp(norm.ppf(1 - delta) * spread)) if np.isfinite(spread) else math.inf
