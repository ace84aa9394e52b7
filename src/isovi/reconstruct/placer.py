"""Positions, regions and flags for cells of one section, from latent representations and features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from isovi._repr import ReprMixin
from isovi._shapes import CoordinateArray, LatentArray
from isovi.geometry.conformal import conformal_quantile, novelty_limit
from isovi.reconstruct.anchored import Anchors, among_neighbors, neighbor_distance, trilaterate
from isovi.reconstruct.kernel import KernelRegression

Method = Literal["joint", "latent", "expression", "trilateration"]

N_SAMPLE = 20_000  # anchors with which difficulty and novelty of a cell are measured, at most
N_SPREAD = 20  # nearest anchors whose scatter measures how difficult a cell is to place
STRANGE = 0.01  # share of cells like the reference that are flagged as unlike it


@dataclass(frozen=True, repr=False)
class Regions(ReprMixin):
    """Predicted positions of cells, with the regions that cover the true positions.

    Attributes
    ----------
    positions
        In coordinate units, shape ``(cell, axis)``.
    radius
        Radius of the disc (or ball) around the position that covers the true position at the stated rate, in
        coordinate units, shape ``(cell,)``; infinite if there are too few calibration cells.
    flagged
        Whether the cell is unlike the reference, shape ``(cell,)``.
    novelty
        Mean distance to the nearest anchors in the latent space or the feature space, whichever is larger, as
        a multiple of the distance beyond which a cell is flagged, shape ``(cell,)``.
    """

    positions: NDArray[np.float64]
    radius: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    novelty: NDArray[np.float64]


class SectionPlacer:
    """Places cells among the anchors of one section.

    Parameters
    ----------
    method
        ``"joint"``: a Gaussian process on features guesses a position, and the cell is placed at the mean of
        the anchors that are near in the latent space and near the guess. ``"latent"``: nearest anchors in the
        latent space only. ``"expression"``: the guess only. ``"trilateration"``: positions whose distances to
        anchors approximate the latent distances divided by λ.
    n_neighbors
        Number of anchors whose mean position is taken.
    coverage
        Share of cells like the reference whose true positions their regions cover.
    seed
        Random seed that draws the subsets for fitting the guess and λ.
    """

    def __init__(
        self, method: Method = "joint", n_neighbors: int = 10, coverage: float = 0.9, seed: int = 0
    ) -> None:
        self.method, self.n_neighbors, self.coverage, self.seed = method, n_neighbors, coverage, seed

    def fit(
        self,
        latent: LatentArray,
        features: NDArray,
        positions: CoordinateArray,
        calibration: NDArray[np.bool_],
    ) -> SectionPlacer:
        """Fit to cells with known positions.

        Parameters
        ----------
        latent, features
            Shapes ``(cell, latent)`` and ``(cell, feature)``.
        positions
            In coordinate units, shape ``(cell, axis)``.
        calibration
            Whether each cell is used for calibration of regions and flags, shape ``(cell,)``. No model may
            have been trained on these cells; the others are anchors.
        """
        known = ~calibration
        self.anchors_ = Anchors.fit(latent[known], positions[known], seed=self.seed)
        some = np.sort(np.random.default_rng(self.seed).permutation(len(self.anchors_))[:N_SAMPLE])
        self.sample_, self.sample_features_ = self.anchors_.some(some), features[known][some]
        self.trust_ = 1.0
        if self.method in ("joint", "expression"):
            self.guess_ = KernelRegression(self.seed).fit(features[known], positions[known])
        self._calibrate(latent[calibration], features[calibration], positions[calibration])
        return self

    def place(self, latent: LatentArray, features: NDArray) -> Regions:
        """Place cells from their latent representations and features."""
        novelty = (self._novelty(latent, features) / self.novelty_limits_).max(axis=1)
        radius = self.factor_ * self._difficulty(latent)
        return Regions(self._positions(latent, features), radius, novelty > 1, novelty)

    def _calibrate(self, latent: LatentArray, features: NDArray, positions: CoordinateArray) -> None:
        self.floor_, self.factor_ = 1.0, float("inf")
        self.novelty_limits_ = np.full(2, np.inf)
        if not len(latent):
            return
        if self.method == "joint":
            self.trust_ = self._weigh(latent, features, positions)
        self.floor_ = 0.5 * float(np.median(self._spread(latent)))
        errors = _apart(self._positions(latent, features), positions)
        self.factor_ = conformal_quantile(errors / self._difficulty(latent), self.coverage)
        novelty = self._novelty(latent, features)
        self.novelty_limits_ = np.array([novelty_limit(column, STRANGE) for column in novelty.T])

    def _weigh(self, latent: LatentArray, features: NDArray, positions: CoordinateArray) -> float:
        """Weight of the guess relative to the latent: each has the weight of its inverse squared error."""
        by_latent = _apart(among_neighbors(self.anchors_, latent, k=self.n_neighbors).positions, positions)
        by_guess = _apart(self.guess_.predict(features), positions)
        return float(np.median(by_latent) / max(np.median(by_guess), 1e-9)) ** 2

    def _positions(self, latent: LatentArray, features: NDArray) -> NDArray[np.float64]:
        if self.method == "expression":
            return self.guess_.predict(features)
        guess = self.guess_.predict(features) if self.method == "joint" else None
        near = among_neighbors(self.anchors_, latent, guess, k=self.n_neighbors, trust=self.trust_).positions
        if self.method == "trilateration":
            return trilaterate(self.anchors_, latent, near, seed=self.seed)
        return near

    def _spread(self, latent: LatentArray) -> NDArray[np.float64]:
        return among_neighbors(self.sample_, latent, k=N_SPREAD).spread

    def _difficulty(self, latent: LatentArray) -> NDArray[np.float64]:
        return self._spread(latent) + self.floor_

    def _novelty(self, latent: LatentArray, features: NDArray) -> NDArray[np.float64]:
        """Distance to the nearest anchors in latent space and feature space, shape ``(cell, 2)``."""
        spaces = ((self.sample_.latent, latent), (self.sample_features_, features))
        return np.column_stack(
            [neighbor_distance(known, query, k=self.n_neighbors) for known, query in spaces]
        )


def _apart(first: NDArray, second: NDArray) -> NDArray[np.float64]:
    return np.linalg.norm(first - second, axis=1).astype(np.float64)
