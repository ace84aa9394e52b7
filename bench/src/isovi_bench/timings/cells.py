"""Large simulated tissues, written to .h5ad by chunks so that their size is bounded by the disk only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

CHUNK = 20_000  # cells whose counts are drawn at once
N_PROGRAMMES = 8  # smooth fields over the tissue that genes follow
MEAN_COUNT = 0.12  # about one entry in ten is not zero
SHAPE = 2.0  # of the gamma of the negative binomial


def positions(n_obs: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of one section in random order: uniform over a square, one cell per unit of area."""
    return rng.uniform(0, n_obs**0.5, (n_obs, 2))


def write(path: Path, coordinates: np.ndarray, n_genes: int = 500, *, seed: int = 0) -> None:
    """Write negative binomial counts that follow smooth fields over the given positions.

    Parameters
    ----------
    path
        ``.h5ad`` to write.
    coordinates
        Shape ``(cell, 2)``; the counts stand in this order.
    n_genes
        Number of genes.
    seed
        Of fields and counts.
    """
    chunks = counts(coordinates, n_genes, seed)
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "/", skeleton(coordinates, n_genes))
        del file["X"]
        anndata.io.write_elem(
            file, "X", next(chunks), dataset_kwargs={"indptr_dtype": np.int64, "compression": "lzf"}
        )
        stored = anndata.io.sparse_dataset(file["X"])
        for chunk in chunks:
            stored.append(chunk)


def skeleton(coordinates: np.ndarray, n_genes: int) -> anndata.AnnData:
    """Names and positions, with no counts yet."""
    n_obs = len(coordinates)
    return anndata.AnnData(
        sparse.csr_matrix((n_obs, n_genes), dtype=np.float32),
        obs=pd.DataFrame(index=[f"cell_{i}" for i in range(n_obs)]),
        var=pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)]),
        obsm={"spatial": coordinates},
    )


def counts(coordinates: np.ndarray, n_genes: int, seed: int) -> Iterator[sparse.csr_matrix]:
    """Counts of the cells, a chunk at a time."""
    rng = np.random.default_rng(seed)
    scaled = (coordinates - coordinates.min(0)) / np.ptp(coordinates, axis=0).max()
    waves = rng.normal(0, 6, (2, N_PROGRAMMES))
    phase = rng.uniform(0, 2 * np.pi, N_PROGRAMMES)
    loadings = rng.normal(0, 0.4, (N_PROGRAMMES, n_genes))
    base = np.log(MEAN_COUNT) + rng.normal(-0.5, 1.0, n_genes)
    for start in range(0, len(scaled), CHUNK):
        fields = np.sin(scaled[start : start + CHUNK] @ waves + phase)
        mean = np.exp(base + fields @ loadings)
        drawn = rng.poisson(mean * rng.gamma(SHAPE, 1 / SHAPE, mean.shape))
        yield sparse.csr_matrix(drawn.astype(np.float32))
