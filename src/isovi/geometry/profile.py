"""Distortion profile: the smallest L for which all but a share ε of pairs keep their distance.

A latent space preserves distances if P(λ d_S <= d_Z <= L λ d_S) >= 1 - ε (Zhou & Du 2024, arXiv:2408.00911).
In logarithms this is an interval of length log L that contains a share 1 - ε of the ratios d_Z / d_S. The
shortest such interval gives L(ε), its lower end λ. It is found exactly, by sorting and a sliding window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from isovi._repr import ReprMixin, Rows
from isovi._shapes import PairFloatArray
from isovi.errors import InputError

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Shares of pairs outside the bounds at which a profile is reported."""

SHOWN = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares shown in the representation of a profile."""

N_BINS = 3
"""Number of ranges of tissue distance (short, middle and long)."""

_SLACK = 1e-9  # of a share: above accumulated rounding, below one pair in a hundred million


@dataclass(frozen=True)
class ProfilePoint:
    """One point of a profile.

    Attributes
    ----------
    epsilon
        Share of pairs that may violate the bounds.
    L
        Distortion constant, at least 1; infinite if more than this share has d_Z = 0 or d_S = 0.
    scale
        The corresponding λ, latent length per coordinate unit.
    """

    epsilon: float
    L: float
    scale: float


@dataclass(frozen=True, repr=False)
class DistortionProfile(ReprMixin):
    """L(ε) of a set of weighted pairs, exact for every ε.

    Attributes
    ----------
    log_ratio
        log(d_Z / d_S) of the pairs with both distances positive, ascending.
    mass
        Cumulative share of the weight, same shape as ``log_ratio``.
    coinciding
        Share of the weight on pairs with d_Z = d_S = 0, which satisfy any bounds.
    n_pairs
        Number of pairs of positive weight.
    bins
        The profile by range of tissue distance, from short to long.
    """

    log_ratio: PairFloatArray
    mass: PairFloatArray
    coinciding: float
    n_pairs: int
    bins: tuple[RangeProfile, ...] = ()

    def summary(self) -> Rows:
        """Values shown in the representation, by name."""
        ranges = {f"L(0.1), {part.low:.3g} to {part.high:.3g} units": part.profile for part in self.bins}
        points = {f"L({point.epsilon:g})": point.L for point in self.curve(SHOWN)}
        parts = {name: profile.for_epsilon(0.1).L for name, profile in ranges.items()}
        return {"pairs": self.n_pairs, **points, "λ at ε = 0.1": self.for_epsilon(0.1).scale, **parts}

    def for_epsilon(self, epsilon: float) -> ProfilePoint:
        """L and λ if a share ``epsilon`` of the pairs may violate the bounds, 0 <= epsilon < 1."""
        low, high = self.interval(epsilon)
        return ProfilePoint(float(epsilon), float(np.exp(high - low)), float(np.exp(low)))

    def curve(self, epsilons: Iterable[float] = EPSILONS) -> tuple[ProfilePoint, ...]:
        """The profile at several ε."""
        return tuple(self.for_epsilon(epsilon) for epsilon in epsilons)

    def interval(self, epsilon: float) -> tuple[float, float]:
        """Ends of the shortest interval of log ratios that contains a share 1 - ε of the weight."""
        if not 0 <= epsilon < 1:
            raise InputError(
                f"epsilon={epsilon}.",
                "epsilon is the share of pairs that may violate the bounds: 0 <= epsilon < 1.",
                "Use for example 0.1.",
            )
        if not len(self.mass):
            return (np.nan, np.nan) if self.coinciding >= 1 - epsilon else (0.0, np.inf)
        needed = max(1 - epsilon - self.coinciding, 0.0) - _SLACK
        if self.mass[-1] < needed:
            return float(self.log_ratio[0]), np.inf
        return self._shortest(needed)

    def _shortest(self, needed: float) -> tuple[float, float]:
        before = np.concatenate([[0.0], self.mass[:-1]])
        before = before[: np.searchsorted(before, self.mass[-1] - needed, side="right")]
        last = np.searchsorted(self.mass, before + needed)
        usable = last < len(self.mass)
        first, last = np.flatnonzero(usable), last[usable]
        best = np.argmin(self.log_ratio[last] - self.log_ratio[first])
        return float(self.log_ratio[first[best]]), float(self.log_ratio[last[best]])


@dataclass(frozen=True, repr=False)
class RangeProfile(ReprMixin):
    """Profile of the pairs in one range of tissue distance.

    Attributes
    ----------
    low, high
        Tissue distances d_S of the range, in coordinate units: low <= d_S < high (the last range includes
        ``high``).
    profile
        Profile of the pairs within the range.
    """

    low: float
    high: float
    profile: DistortionProfile

    def summary(self) -> Rows:
        """Values shown in the representation, by name."""
        return {"d_S": f"{self.low:.3g} to {self.high:.3g} units", **self.profile.summary()}


def distortion_profile(
    latent: PairFloatArray,
    tissue: PairFloatArray,
    weight: PairFloatArray | None = None,
    *,
    edges: Iterable[float] | None = None,
) -> DistortionProfile:
    """Distortion profile of a set of pairs, in O(n log n).

    Parameters
    ----------
    latent, tissue
        d_Z and d_S of each pair.
    weight
        Pair weight G; one for all pairs by default. Pairs of weight zero are left out.
    edges
        Edges of the ranges of d_S for :attr:`DistortionProfile.bins`, ascending; see :func:`range_edges`.

    Raises
    ------
    InputError
        If the arrays differ in length, contain negative or non-finite values, or all weights are zero.

    Examples
    --------
    >>> profile = distortion_profile(np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    >>> point = profile.for_epsilon(0.0)
    >>> round(point.L, 3), round(point.scale, 3)
    (1.5, 2.0)
    """
    weight = np.ones(len(latent)) if weight is None else weight
    _check(latent, tissue, weight)
    used = weight > 0
    latent, tissue, weight = latent[used], tissue[used], weight[used]
    whole = _profile(latent, tissue, weight)
    if edges is None:
        return whole
    bins = tuple(
        RangeProfile(low, high, _profile(latent[inside], tissue[inside], weight[inside]))
        for low, high, inside in split_by_range(tissue, edges)
        if inside.any()
    )
    return DistortionProfile(whole.log_ratio, whole.mass, whole.coinciding, whole.n_pairs, bins)


def _profile(latent: PairFloatArray, tissue: PairFloatArray, weight: PairFloatArray) -> DistortionProfile:
    both, total = (latent > 0) & (tissue > 0), weight.sum()
    log_ratio = np.log(latent[both]) - np.log(tissue[both])
    if np.ptp(weight) == 0:
        log_ratio.sort()
        mass = np.arange(1, len(log_ratio) + 1) / len(weight)
    else:
        order = np.argsort(log_ratio)
        log_ratio, mass = log_ratio[order], np.cumsum(weight[both][order]) / total
    coinciding = float(weight[(latent == 0) & (tissue == 0)].sum() / total)
    return DistortionProfile(log_ratio, mass, coinciding, len(weight))


def range_edges(longest: float, n_bins: int = N_BINS) -> tuple[float, ...]:
    """Edges of ranges of tissue distance, equally wide on a logarithmic axis from one unit to the longest.

    Parameters
    ----------
    longest
        Largest distance, in coordinate units (the spacing of spots).
    n_bins
        Number of ranges; the first begins at zero. A tissue no longer than one unit has one range.
    """
    if longest <= 1:
        return 0.0, float(longest)
    return 0.0, *(float(edge) for edge in np.geomspace(1.0, longest, n_bins + 1)[1:])


def split_by_range(tissue: PairFloatArray, edges: Iterable[float]) -> list[tuple[float, float, np.ndarray]]:
    """Edges of each range, and the mask of the pairs within it."""
    ends = np.asarray(list(edges), dtype=float)
    which = np.minimum(np.searchsorted(ends, tissue, side="right") - 1, len(ends) - 2)
    which[tissue > ends[-1] * (1 + _SLACK)] = -1
    return [
        (float(ends[number]), float(ends[number + 1]), which == number) for number in range(len(ends) - 1)
    ]


def _check(latent: np.ndarray, tissue: np.ndarray, weight: np.ndarray) -> None:
    if not len(latent) == len(tissue) == len(weight):
        raise InputError(
            f"There are {len(latent)} latent distances, {len(tissue)} tissue distances and {len(weight)} "
            "weights.",
            "All three must be for the same pairs.",
            "Compute them from the same source and target spots.",
        )
    for name, values in (("latent distance", latent), ("tissue distance", tissue), ("weight", weight)):
        wrong = int((~np.isfinite(values) | (values < 0)).sum())
        if wrong:
            raise InputError(
                f"{wrong} of {len(values)} pairs have a negative or non-finite {name}.",
                "Distances and weights must be finite and non-negative.",
                "Leave out spots without coordinates or latent representation.",
            )
    if not (weight > 0).any():
        raise InputError(
            f"None of the {len(weight)} pairs has a positive weight.",
            "A profile needs at least one pair with a positive weight.",
            "Use other pairs, or more spots.",
        )
