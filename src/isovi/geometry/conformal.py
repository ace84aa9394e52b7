"""Split conformal calibration: distribution-free limits that cover new cases at a stated rate.

Vovk, Gammerman & Shafer 2005; Lei et al. 2018. If a new case is exchangeable with the calibration cases,
none of which was used to make the prediction, the limits cover it with at least the stated probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError


def conformal_quantile(scores: ArrayLike, coverage: float = 0.9) -> float:
    """Smallest limit that a new score exceeds with a probability of at most ``1 - coverage``.

    Parameters
    ----------
    scores
        Scores of the calibration cases, shape ``(cell,)``; larger is worse.
    coverage
        Probability with which the limit holds, between 0 and 1.

    Returns
    -------
    The ``ceil((n + 1) coverage)``-th smallest score; infinite if there are fewer than
    ``coverage / (1 - coverage)`` scores.

    Raises
    ------
    InputError
        If the coverage is not between 0 and 1, or a score is NaN.

    Examples
    --------
    >>> conformal_quantile(range(1, 10), 0.9)
    9.0
    >>> conformal_quantile(range(1, 9), 0.9)
    inf
    """
    values = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    _check(values, coverage)
    rank = int(np.ceil(round((len(values) + 1) * coverage, 9)))  # 10 * 0.9 must not become 9.000000000000002
    return float(values[rank - 1]) if rank <= len(values) else float("inf")


def conformal_interval(scores: ArrayLike, coverage: float = 0.9) -> tuple[float, float]:
    """Limits that contain a new score with a probability of at least ``coverage``.

    Parameters
    ----------
    scores
        Scores of the calibration cases, shape ``(case,)``.
    coverage
        Probability with which both limits hold; half of the remainder lies on either side.

    Returns
    -------
    Lower and upper limit, infinite if there are too few scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    one_sided = (1 + coverage) / 2
    return -conformal_quantile(-values, one_sided), conformal_quantile(values, one_sided)


def novelty_limit(scores: ArrayLike, share: float = 0.01) -> float:
    """Score above which a case is unlike the calibration cases.

    Parameters
    ----------
    scores
        Scores of the calibration cases, shape ``(cell,)``; larger is more unusual.
    share
        Largest share of cases like the calibration cases that may exceed the limit. With fewer than
        ``1 / share`` scores the limit is the largest score.
    """
    n = np.size(scores)
    return conformal_quantile(scores, min(1 - share, n / (n + 1))) if n else float("inf")


def _check(values: NDArray, coverage: float) -> None:
    if not 0 < coverage < 1:
        raise InputError(
            f"coverage={coverage}.", "coverage must be a probability between 0 and 1.", "Use for example 0.9."
        )
    if np.isnan(values).any():
        raise InputError(
            f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN.",
            "Each calibration case needs a score.",
            "Leave out cases without a score.",
        )
