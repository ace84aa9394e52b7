from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from isovi.data.lognorm import log_normalise
from isovi.model import gaussian

COUNTS = arrays(np.int64, (5, 4), elements=st.integers(0, 500))


@given(COUNTS)
def test_it_is_one_for_arrays_sparse_matrices_and_tensors(counts: np.ndarray) -> None:
    dense = log_normalise(counts)
    for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
        found = log_normalise(kind(counts))
        assert found.format == "csr"
        np.testing.assert_array_equal(found.toarray(), dense)
    tensor = gaussian.log_normalise(torch.as_tensor(counts, dtype=torch.float64))
    np.testing.assert_allclose(tensor.numpy(), dense, rtol=1e-12)


@given(COUNTS, st.floats(1, 1e6))
def test_every_spot_has_the_same_sum_and_an_empty_one_stays_zero(counts: np.ndarray, target: float) -> None:
    sums = np.expm1(log_normalise(counts, target)).sum(axis=1)
    np.testing.assert_allclose(sums, np.where(counts.any(axis=1), target, 0.0), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_the_counts_are_not_changed(dtype: type) -> None:
    counts = sparse.csr_matrix(np.arange(6, dtype=dtype).reshape(2, 3))
    before = counts.copy()
    log_normalise(counts)
    assert (counts != before).nnz == 0 and counts.dtype == dtype
