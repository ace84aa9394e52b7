from __future__ import annotations

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scvi.model import SCVI

from isovi.data.query import forget, match
from isovi.errors import InputError


def data(genes: list[str], *, n_obs: int = 4, **obs: list[str]) -> AnnData:
    counts = np.arange(1, n_obs * len(genes) + 1).reshape(n_obs, -1)
    names = pd.DataFrame(obs, index=[f"cell_{i}" for i in range(n_obs)])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=names, var=pd.DataFrame(index=genes))


def test_genes_are_matched_by_name_in_the_order_of_the_model() -> None:
    query = data(["c", "x", "a"])
    found = match(query, data(["a", "b", "c"]), {})
    assert list(found.adata.var_names) == ["a", "b", "c"]
    expected = query.X.toarray()[:, [2, 0, 0]] * [1, 0, 1]
    np.testing.assert_array_equal(found.adata.X.toarray(), expected)
    assert list(found.missing) == ["b"] and found.present.tolist() == [True, False, True]


def test_the_query_stays_as_it_was() -> None:
    query = data(["b", "a"], batch=["x"] * 4)
    before = query.copy()
    found = match(query, data(["a", "b"], batch=["y"] * 4), {"batch_key": "batch"})
    found.adata.X.data[:] = -1
    np.testing.assert_array_equal(query.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(query.obs, before.obs)


def test_unknown_categories_become_the_most_frequent_known_one() -> None:
    reference = data(["a"], batch=["x", "y", "y", "y"], section=["1", "1", "1", "2"])
    setup = {"batch_key": "batch", "section_key": "section"}
    found = match(data(["a"], batch=["x", "new", "y", "x"]), reference, setup)
    assert found.adata.obs["batch"].tolist() == ["x", "y", "y", "x"]
    assert found.adata.obs["section"].tolist() == ["1"] * 4


def test_counts_are_taken_from_the_layer_of_the_model() -> None:
    query = data(["a", "b"])
    query.layers["counts"] = query.X.copy()
    query.X = query.X * 0.5
    found = match(query, data(["b", "a"]), {"layer": "counts"})
    np.testing.assert_array_equal(
        found.adata.layers["counts"].toarray(), query.layers["counts"].toarray()[:, ::-1]
    )


def test_no_gene_in_common_is_refused() -> None:
    with pytest.raises(InputError, match="None of the data's 1 genes"):
        match(data(["x"]), data(["a"]), {})


def test_what_is_not_counts_is_refused() -> None:
    query = data(["a"])
    query.X = query.X * 0.5
    with pytest.raises(InputError, match="whole"):
        match(query, data(["a"]), {})


def test_data_that_is_forgotten_is_let_go_of_and_other_data_is_not() -> None:
    reference, waiting = (data(["a", "b"], n_obs=6) for _ in range(2))
    for adata in (reference, waiting):
        SCVI.setup_anndata(adata)
    model = SCVI(reference, n_latent=2, n_hidden=4)
    model.is_trained_ = True
    query = data(["a", "b"], n_obs=5)
    latent = model.get_latent_representation(query)
    held = weakref.ref(query)
    forget(model, query)
    forget(model, query)  # it is not known any more, and that is fine
    del query
    gc.collect()
    assert held() is None
    assert np.isfinite(latent).all() and np.isfinite(model.get_latent_representation()).all()
    SCVI(waiting, n_latent=2, n_hidden=4)
