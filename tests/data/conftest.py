"""A small tissue that passes every check, for tests to spoil."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

N_OBS, N_GENES = 40, 12


@pytest.fixture
def adata() -> AnnData:
    """Counts of two sections, with batches, labels and a layer."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.6, (N_OBS, N_GENES)).astype(np.float32)
    counts[:, 0] += 1  # no empty spots
    counts[0] += 1  # no empty genes
    obs = pd.DataFrame(
        {
            "slice": pd.Categorical(np.repeat(["s1", "s2"], N_OBS // 2)),
            "donor": np.tile(["a", "b"], N_OBS // 2),
            "label": pd.Categorical(np.where(np.arange(N_OBS) % 5 > 0, "tumour", None)),
        },
        index=[f"spot{i}" for i in range(N_OBS)],
    )
    data = AnnData(
        sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    )
    data.obsm["spatial"] = rng.uniform(0, 1000, (N_OBS, 2))
    data.layers["counts"] = data.X.copy()
    return data
