"""Certificates: bounds on L(ε) of unseen pairs that hold with a stated confidence.

Held-out cells are grouped into disjoint pairs. Given the fitted encoder the ratios d_Z / d_S of these pairs
are independent, so their empirical distribution bounds the true one without further assumptions. Random pairs
can be grouped in many ways: :mod:`isovi.geometry.matchings` uses all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from isovi._repr import ReprMixin, Rows
from isovi._shapes import CellBoolArray, PairFloatArray, PairIndexArray
from isovi.errors import InputError
from isovi.geometry.profile import EPSILONS, SHOWN, DistortionProfile, ProfilePoint, distortion_profile

DELTA = 0.05
"""Probability that a certificate is wrong."""

CERTIFIED_EPSILON = 0.1
"""Share of pairs outside the bounds for which a single L is certified by default."""


@dataclass(frozen=True, repr=False)
class CurveCertificate(ReprMixin):
    """With confidence 1 - δ, for all ε at once: L(ε + 2η) is at most the measured L(ε).

    By the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's (1990) constant, the empirical distribution
    is everywhere within η = sqrt(ln(2/δ) / (2n)) of the true one, so the share of pairs in any interval is
    within 2η of the measured share.

    Attributes
    ----------
    profile
        Measured profile of the disjoint pairs.
    delta
        Probability that the statement is wrong.
    """

    profile: DistortionProfile
    delta: float

    def summary(self) -> Rows:
        """Values shown in the representation, by name."""
        bounds = {f"L({point.epsilon:.3g}) at most": point.L for point in self.curve(SHOWN)}
        return {"confidence": 1 - self.delta, "disjoint pairs": self.n_pairs, "η": self.eta, **bounds}

    @property
    def n_pairs(self) -> int:
        """Number of disjoint pairs."""
        return self.profile.n_pairs

    @property
    def eta(self) -> float:
        """Largest difference between the distributions, η."""
        return math.sqrt(math.log(2 / self.delta) / (2 * self.n_pairs))

    def for_epsilon(self, epsilon: float) -> ProfilePoint:
        """Certified L at ``epsilon``: the measured L(ε - 2η); infinite if ε < 2η."""
        if epsilon < 2 * self.eta:
            return ProfilePoint(float(epsilon), math.inf, math.nan)
        measured = self.profile.for_epsilon(epsilon - 2 * self.eta)
        return ProfilePoint(float(epsilon), measured.L, measured.scale)

    def curve(self, epsilons: Iterable[float] = EPSILONS) -> tuple[ProfilePoint, ...]:
        """Certified points: the measured ones with ε increased by 2η, if that is below 1."""
        moved = (epsilon + 2 * self.eta for epsilon in epsilons)
        return tuple(self.for_epsilon(epsilon) for epsilon in moved if epsilon < 1)


@dataclass(frozen=True, repr=False)
class PointCertificate(ReprMixin):
    """With confidence 1 - δ, for one ε: at most a share ε of pairs violates λ d_S <= d_Z <= L λ d_S.

    Intervals of log ratios around one middle are nested. The shortest one of which a test says that at most a
    share ε of pairs lies outside is certified, if the middle does not depend on the pairs of the test.

    Attributes
    ----------
    epsilon
        Share of pairs that may violate the bounds.
    L
        Certified distortion constant; infinite if too many pairs coincide in latent space or tissue.
    scale
        λ, latent length per coordinate unit.
    delta
        Probability that the certificate is wrong.
    n_pairs
        Number of disjoint pairs.
    method
        ``"all matchings"`` (:func:`isovi.geometry.matchings.certify_matchings`): the middle is from other
        cells, and the test averages over the ways of joining the cells to pairs. ``"one matching"``: the
        middle is from other cells, and the share outside has an exact binomial upper bound (Clopper & Pearson
        1934) of at most ε. ``"halves"``: the middle is from one half of the pairs, and the other is tested in
        that way.
    approximate_L, approximate_scale
        L and λ of the interval with the same middle to which a bootstrap over cells gives a confidence of
        about 1 - δ: right for many cells, and no guarantee. NaN if it was not computed.
    """

    epsilon: float
    L: float
    scale: float
    delta: float
    n_pairs: int
    method: str = "halves"
    approximate_L: float = math.nan
    approximate_scale: float = math.nan

    def summary(self) -> Rows:
        """Values shown in the representation, by name."""
        bound = {f"L({self.epsilon:g}) at most": self.L, "λ": self.scale}
        about = {"confidence": 1 - self.delta, "disjoint pairs": self.n_pairs, "tested": self.method}
        if math.isnan(self.approximate_L):
            return {**about, **bound}
        approximate = f"approximate {1 - self.delta:.0%} limit of L({self.epsilon:g}) (bootstrap over cells)"
        return {**about, **bound, approximate: self.approximate_L}


def certify_curve(
    latent: PairFloatArray,
    tissue: PairFloatArray,
    source: PairIndexArray,
    target: PairIndexArray,
    *,
    trained: CellBoolArray | None = None,
    delta: float = DELTA,
    edges: Iterable[float] | None = None,
) -> CurveCertificate:
    """Certify the whole profile of disjoint pairs of held-out cells.

    Parameters
    ----------
    latent, tissue
        d_Z and d_S of each pair.
    source, target
        Cells of each pair. No cell may be in two pairs.
    trained
        Whether each cell was used in training or for early stopping; such cells may not be in a pair.
    delta
        Probability that the certificate is wrong.
    edges
        Ranges of d_S for the measured profile's bins.

    Raises
    ------
    InputError
        If pairs share a cell or contain a training cell, or ``delta`` is not between 0 and 1.
    """
    _check(source, target, trained, delta)
    return CurveCertificate(distortion_profile(latent, tissue, edges=edges), float(delta))


def certify_point(
    latent: PairFloatArray,
    tissue: PairFloatArray,
    source: PairIndexArray,
    target: PairIndexArray,
    *,
    rng: np.random.Generator,
    epsilon: float = CERTIFIED_EPSILON,
    trained: CellBoolArray | None = None,
    delta: float = DELTA,
    middle: float | None = None,
) -> PointCertificate:
    """Certify L for one ε, more tightly than :func:`certify_curve`.

    Parameters
    ----------
    latent, tissue, source, target, trained, delta
        As for :func:`certify_curve`.
    rng
        Random generator that splits the pairs into halves.
    epsilon
        Share of pairs that may violate the bounds.
    middle
        Middle of the interval of log ratios, from other cells than those of the pairs
        (:func:`isovi.geometry.matchings.middle_of`): all pairs are then tested. By default it is chosen on
        one half of the pairs, and the other half is tested.

    Raises
    ------
    InputError
        As for :func:`certify_curve`, and if there are too few pairs for ``epsilon``: see
        :func:`cells_needed`.
    """
    _check(source, target, trained, delta)
    require_pairs(len(source), epsilon, delta, halves=middle is None)
    tested, method = np.arange(len(source)), "one matching"
    if middle is None:
        order = rng.permutation(len(source))
        chosen, tested, method = order[: len(order) // 2], order[len(order) // 2 :], "halves"
        profile = distortion_profile(latent[chosen], tissue[chosen])
        middle = _middle(profile, _allowed(len(tested), epsilon, delta) / len(tested))
    away = np.sort(np.abs(log_ratios(latent[tested], tissue[tested], middle) - middle))
    half = away[len(tested) - _allowed(len(tested), epsilon, delta) - 1]
    return PointCertificate(
        float(epsilon),
        float(np.exp(2 * half)),
        float(np.exp(middle - half)),
        float(delta),
        len(source),
        method,
    )


def log_ratios(latent: PairFloatArray, tissue: PairFloatArray, middle: float) -> PairFloatArray:
    """log(d_Z / d_S); ``middle`` for pairs that coincide in both spaces, which satisfy any bounds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(latent) - np.log(tissue)
    found[(latent == 0) & (tissue == 0)] = middle
    return found


def _middle(profile: DistortionProfile, epsilon: float) -> float:
    low, high = profile.interval(epsilon)
    if np.isfinite([low, high]).all():
        return (low + high) / 2
    return float(np.median(profile.log_ratio)) if len(profile.log_ratio) else 0.0


def _allowed(tested: int, epsilon: float, delta: float) -> int:
    """Largest number of tested pairs outside the interval with an exact bound of at most ε; -1 if none."""
    outside = np.arange(max(int(epsilon * tested), 0) + 1)
    fits = beta.ppf(1 - delta, outside + 1, np.maximum(tested - outside, 1e-9)) <= epsilon
    return int(outside[fits].max(initial=-1))


def require_pairs(n_pairs: int, epsilon: float, delta: float, *, halves: bool = False) -> None:
    """Raise an error if a tighter certificate takes more disjoint pairs than there are."""
    needed = cells_needed(epsilon, delta, halves=halves)
    if n_pairs >= needed // 2:
        return
    raise InputError(
        f"There are {n_pairs} disjoint pairs of held-out cells.",
        f"To certify ε = {epsilon:g} with confidence {1 - delta:g}, {needed} "
        "held-out cells in pairs are needed.",
        f"Hold out more cells, or use an ε of at least {least_epsilon(n_pairs, delta, halves=halves):.2g}.",
    )


def cells_needed(epsilon: float, delta: float = DELTA, *, curve: bool = False, halves: bool = False) -> int:
    """Number of held-out cells that a certificate needs.

    Parameters
    ----------
    epsilon
        Smallest share of violating pairs for which L should be certified with a finite bound; for a curve the
        desired width 2η, by which its ε increases.
    delta
        Probability that the certificate is wrong.
    curve
        Whether to certify the whole curve.
    halves
        Whether the middle is chosen on one half of the pairs, because there are no other cells to choose it
        on.

    Examples
    --------
    >>> cells_needed(0.1), cells_needed(0.1, halves=True), cells_needed(0.1, curve=True)
    (58, 114, 1476)
    """
    if curve:
        return 2 * math.ceil(2 * math.log(2 / delta) / epsilon**2)
    tested = math.ceil(math.log(delta) / math.log1p(-epsilon))
    return max(4 * tested - 2 if halves else 2 * tested, 4)


def least_epsilon(n_pairs: int, delta: float = DELTA, *, halves: bool = False) -> float:
    """Smallest ε, rounded up to two digits, that this many disjoint pairs can certify; 1 if there is none.

    Parameters
    ----------
    n_pairs
        Number of disjoint pairs.
    delta
        Probability that the certificate is wrong.
    halves
        As for :func:`cells_needed`.

    Examples
    --------
    >>> least_epsilon(29), least_epsilon(57, halves=True), least_epsilon(20)
    (0.1, 0.1, 0.14)
    """
    if n_pairs < 2:
        return 1.0
    tested = n_pairs - n_pairs // 2 if halves else n_pairs
    return math.ceil(100 * (1 - delta ** (1 / tested))) / 100


def check_delta(delta: float) -> None:
    """Raise an error if δ is no probability."""
    if not 0 < delta < 1:
        raise InputError(
            f"delta={delta}.", "delta must be a probability between 0 and 1.", "Use for example 0.05."
        )


def _check(
    source: PairIndexArray, target: PairIndexArray, trained: CellBoolArray | None, delta: float
) -> None:
    check_delta(delta)
    cells = np.concatenate([source, target])
    shared = len(cells) - len(np.unique(cells))
    if shared:
        raise InputError(
            f"{len(source)} pairs share {shared} cells.",
            "Ratios are independent only if no cell is in two pairs.",
            "Draw pairs with isovi.geometry.pairs.disjoint_pairs.",
        )
    seen = 0 if trained is None else int(trained[cells].sum())
    if seen:
        raise InputError(
            f"{seen} of the {len(cells)} cells in pairs are training cells.",
            "A certificate is valid only for cells that the model never saw.",
            "Hold out cells from the fit and certify on those.",
        )
