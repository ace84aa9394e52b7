"""Regression of positions on features: a Gaussian process, exact or with the Nyström method."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.kernel_approximation import Nystroem

from isovi._shapes import CoordinateArray

N_LIKELIHOOD = 400  # cells for fitting the kernel's hyperparameters
CHUNK = 10_000  # cells whose kernel with the components is held in memory
N_COMPONENTS = 1_000  # cells that define the basis; with no more cells the process is exact


class KernelRegression:
    """Gaussian process from features to positions, with one length scale for all features.

    Length scale, amplitude and noise maximise the marginal likelihood of a few hundred cells (Rasmussen &
    Williams 2006, ch. 5); the mean is that of the subset of regressors (ibid., ch. 8.3.1), computed in
    chunks of cells.

    Parameters
    ----------
    seed
        Random seed that draws the cells of both subsets.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: NDArray, positions: CoordinateArray) -> KernelRegression:
        """Fit the regression.

        Parameters
        ----------
        features
            Shape ``(cell, feature)``.
        positions
            Shape ``(cell, axis)``, in any unit.
        """
        positions = np.asarray(positions, dtype=np.float64)
        self.centre_ = positions.mean(axis=0)
        self.unit_ = positions.std() or 1.0
        standard = (positions - self.centre_) / self.unit_
        self.basis_, noise = self._basis(features, standard)
        n_components = self.basis_.components_.shape[0]
        square, product = np.eye(n_components) * noise, np.zeros((n_components, standard.shape[1]))
        for part in _chunks(len(features)):
            basis = self.basis_.transform(features[part])
            square += basis.T @ basis
            product += basis.T @ standard[part]
        self.coefficients_ = linalg.solve(square, product, assume_a="pos")
        return self

    def predict(self, features: NDArray) -> NDArray[np.float64]:
        """Predict positions, shape ``(cell, axis)``."""
        found = [
            self.basis_.transform(features[part]) @ self.coefficients_ for part in _chunks(len(features))
        ]
        return np.concatenate(found) * self.unit_ + self.centre_

    def _basis(self, features: NDArray, standard: NDArray) -> tuple[Nystroem, float]:
        """Functions of the features, and the noise relative to their amplitude."""
        some = np.random.default_rng(self.seed).permutation(len(features))[:N_LIKELIHOOD]
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(1.0, (1e-1, 1e2)) + WhiteKernel(0.3, (1e-3, 1e1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a hyperparameter at its bound is acceptable
            process = GaussianProcessRegressor(kernel).fit(features[some], standard[some])
        amplitude, shape, noise = process.kernel_.k1.k1, process.kernel_.k1.k2, process.kernel_.k2
        basis = Nystroem(
            gamma=0.5 / shape.length_scale**2,
            n_components=min(N_COMPONENTS, len(features)),
            random_state=self.seed,
        )
        return basis.fit(features), noise.noise_level / amplitude.constant_value


def _chunks(n_cells: int) -> list[NDArray[np.intp]]:
    return np.array_split(np.arange(n_cells), max(n_cells // CHUNK, 1))
