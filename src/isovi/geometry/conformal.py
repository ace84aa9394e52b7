"""Split conformal calibration: limits that cover new cases at a stated rate, whatever the distribution.

Vovk, Gammerman & Shafer 2005; Lei et al. 2018. If a new case is exchangeable with the cases of calibration,
none of which helped to make the prediction, then the limits cover it with at least the stated probability.
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
        Scores of the cases of calibration, shape ``(cell,)``, larger is worse.
    coverage
        Probability with which the limit is to hold, between 0 and 1.

    Returns
    -------
    The ``ceil((n + 1) coverage)``-th smallest score; infinite if there are too few, fewer than
    ``coverage / (1 - coverage)``.

    Raises
    ------
    InputError
        If the coverage is not between 0 and 1, or a score is not a number.

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
    """Limits that a new score lies between with a probability of at least ``coverage``.

    Parameters
    ----------
    scores
        Scores of the cases of calibration, shape ``(case,)``.
    coverage
        Probability with which both limits are to hold, half of the rest on either side.

    Returns
    -------
    Lower and upper limit, infinite where there are too few scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    one_sided = (1 + coverage) / 2
    return -conformal_quantile(-values, one_sided), conformal_quantile(values, one_sided)


def novelty_limit(scores: ArrayLike, share: float = 0.01) -> float:
    """Score above which a case is unlike those of calibration.

    Parameters
    ----------
    scores
        Scores of the cases of calibration, shape ``(cell,)``, larger is stranger.
    share
        Of cases like those of calibration, how many are to be called strange at most; with fewer than
        ``1 / share`` scores it is the largest of them.
    """
    n = np.size(scores)
    return conformal_quantile(scores, min(1 - share, n / (n + 1))) if n else float("inf")


def _check(values: NDArray, coverage: float) -> None:
    if not 0 < coverage < 1:
        raise InputError(
            f"coverage={coverage} was asked for.", "It is a probability between 0 and 1.", "Give 0.9."
        )
    if np.isnan(values).any():
        raise InputError(
            f"{int(np.isnan(values).sum())} of {len(values)} scores are not numbers.",
            "Each case of calibration needs a score.",
            "Leave such cases out.",
        )
