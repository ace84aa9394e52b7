"""A model can tell which cells it was trained on, whatever became of their names, their order or itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from scvi.model import SCANVI, SCVI

from isovi import IsoSCVI, preserve_distances
from isovi.data import check
from isovi.data.fingerprint import fingerprints, training_split
from isovi.data.pack import open_packed, pack
from isovi.errors import IsoviWarning
from isovi.simulate import simulate

PARTS = {"train": slice(0, 60), "validation": slice(60, 80), "heldout": slice(80, 100)}
SPLIT = np.repeat(list(PARTS), [60, 20, 20])
ROWS = [np.arange(100)[part] for part in PARTS.values()]


def tissue(seed: int = 0) -> AnnData:
    adata = simulate("layers", n_obs=100, n_genes=30, seed=seed)
    adata.obs["label"] = np.tile(["unknown", "a", "b", "a"], 25)
    adata.obs_names = [f"s{i}" for i in range(100)]
    return adata


def trained(model: Any, rows: list[np.ndarray] = ROWS) -> Any:
    logging.getLogger("scvi").setLevel(logging.WARNING)
    model.train(1, datasplitter_kwargs={"external_indexing": rows}, enable_progress_bar=False)
    return model


def fitted(adata: AnnData, cls: type = IsoSCVI, rows: list[np.ndarray] = ROWS) -> Any:
    cls.setup_anndata(adata)
    return trained(cls(adata, n_latent=2, n_hidden=8), rows)


def changed(adata: AnnData) -> tuple[AnnData, np.ndarray]:
    """Some of the cells in another order, with other names and genes in another order; and their split."""
    order = np.random.default_rng(0).permutation(100)[:70]
    found = adata[order][:, adata.var_names[::-1]].copy()
    found.obs_names = [f"renamed{i}" for i in range(70)]
    return found, SPLIT[order]


class _Genes:
    """What is read of a model to find counts."""

    def __init__(self, names: list[str]) -> None:
        field = {"data_registry": {"attr_name": "X"}, "state_registry": {"column_names": np.array(names)}}
        self.registry = {"field_registries": {"X": field}}


def prints(counts: Any, names: list[str] | None = None) -> np.ndarray:
    adata = AnnData(counts)
    known = [f"g{i}" for i in range(adata.n_vars)] if names is None else names
    adata.var_names = known
    return fingerprints(_Genes(sorted(known)), adata)


# ---------------------------------------------------------------------------- fingerprints


@given(arrays(np.int64, (6, 5), elements=st.integers(0, 2**20)), st.randoms(use_true_random=False))
def test_order_storage_and_type_of_the_counts_change_nothing(counts: np.ndarray, random: Any) -> None:
    expected = prints(counts.astype(np.float32))
    rows, genes = (random.sample(range(n), n) for n in counts.shape)
    np.testing.assert_array_equal(prints(counts[rows]), expected[rows])
    moved = prints(counts[:, genes], [f"g{gene}" for gene in genes])
    np.testing.assert_array_equal(moved, expected)
    for kind in (sparse.csr_matrix, sparse.csc_matrix):
        for dtype in (np.int32, np.float32, np.float64, np.uint64):
            np.testing.assert_array_equal(prints(kind(counts.astype(dtype))), expected)


@given(arrays(np.uint8, (2, 40)), st.integers(0, 39))
def test_cells_that_differ_in_one_gene_differ(counts: np.ndarray, gene: int) -> None:
    counts = counts.astype(np.int64)
    counts[1] = counts[0]
    counts[1, gene] += 1
    first, second = prints(counts)
    assert first != second


def test_a_million_cells_of_few_counts_have_as_many_fingerprints_as_contents() -> None:
    counts = sparse.random(200_000, 50, density=0.1, random_state=0, format="csr")
    counts.data = np.ceil(4 * counts.data)
    dense = np.unique(counts.toarray().astype(np.uint8), axis=0)
    assert len(np.unique(prints(counts))) == len(dense)


def test_a_value_stored_in_two_parts_or_as_zero_is_that_value() -> None:
    parts = sparse.csr_matrix(
        (np.array([1.0, 2.0, 0.0, 5.0]), np.array([0, 0, 1, 2]), np.array([0, 3, 4])), shape=(2, 3)
    )
    np.testing.assert_array_equal(prints(parts), prints(np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 5.0]])))


def test_values_that_are_not_counts_have_fingerprints_too() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    assert len(np.unique(prints(values))) == 50
    np.testing.assert_array_equal(prints(values.astype(np.float32)), prints(values))


def test_counts_are_read_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (40, 12))
    expected = prints(counts)
    monkeypatch.setattr(check, "_BLOCK_VALUES", 30)
    for stored in (counts, sparse.csr_matrix(counts), sparse.csc_matrix(counts)):
        np.testing.assert_array_equal(prints(stored), expected)


# ---------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def model() -> Any:
    return fitted(tissue())


def test_cells_are_recognised_in_any_order_under_any_name(model: Any) -> None:
    np.testing.assert_array_equal(training_split(model, tissue()), SPLIT)
    found, split = changed(tissue())
    np.testing.assert_array_equal(training_split(model, found), split)
    assert (training_split(model, tissue(seed=1)) == "heldout").all()


def test_further_genes_are_not_looked_at(model: Any) -> None:
    adata = tissue()
    more = AnnData(sparse.hstack([adata.X, np.ones((100, 1))], format="csr"))
    more.var_names = [*adata.var_names, "other"]
    np.testing.assert_array_equal(training_split(model, more), SPLIT)


def test_a_cell_with_the_counts_of_a_training_cell_counts_as_trained_on(model: Any) -> None:
    adata = tissue()
    counts = adata.X.toarray()
    counts[90], counts[91] = counts[0], counts[70]
    adata.X = sparse.csr_matrix(counts)
    assert list(training_split(model, adata)[[90, 91, 92]]) == ["train", "validation", "heldout"]


def test_it_is_known_after_saving_and_loading_even_without_data(model: Any, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"))
    found, split = changed(tissue())
    for adata in (found[:, tissue().var_names].copy(), False):
        loaded = IsoSCVI.load(str(tmp_path / "model"), adata=adata)
        np.testing.assert_array_equal(training_split(loaded, found), split)


def test_a_query_model_knows_its_reference_and_adds_its_own_cells(model: Any, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"))
    for reference in (model, str(tmp_path / "model")):
        query = IsoSCVI.load_query_data(tissue(seed=1), reference)
        np.testing.assert_array_equal(training_split(query, tissue()), SPLIT)
        assert (training_split(query, tissue(seed=1)) == "heldout").all()
        trained(query)
        np.testing.assert_array_equal(training_split(query, tissue()), SPLIT)
        np.testing.assert_array_equal(training_split(query, tissue(seed=1)), SPLIT)
    assert (training_split(model, tissue(seed=1)) == "heldout").all()


def test_a_second_training_adds_to_the_first() -> None:
    model = trained(fitted(tissue()), [np.arange(50, 90), np.arange(0, 50), np.arange(90, 100)])
    found = training_split(model, tissue())
    assert (found[:90] == "train")[np.r_[:60, 60:90]].all() and (found[90:] == "heldout").all()


@pytest.mark.parametrize("kept", ["latent_posterior_parameters", "latent_posterior_parameters_with_counts"])
def test_it_is_known_of_minified_data(kept: str) -> None:
    adata = tissue()
    model = fitted(adata)
    mean, variance = model.get_latent_representation(return_dist=True)
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = mean, variance
    model.minify_adata(kept)
    np.testing.assert_array_equal(training_split(model, model.adata), SPLIT)
    found, split = changed(tissue())
    np.testing.assert_array_equal(training_split(model, found), split)
    part = training_split(model, model.adata[20:].copy())
    np.testing.assert_array_equal(part, SPLIT[20:] if kept.endswith("counts") else "")


def test_it_is_known_of_packed_data(tmp_path: Path) -> None:
    tissue().write_h5ad(tmp_path / "tissue.h5ad")
    pack(tmp_path / "tissue.h5ad", tmp_path / "packed.zarr")
    packed = open_packed(tmp_path / "packed.zarr")
    IsoSCVI.setup_anndata(packed)
    model = IsoSCVI(packed, n_latent=2, n_hidden=8)
    rows = [np.arange(80), np.arange(0), np.arange(80, 100)]
    model.train(1, datasplitter_kwargs={"external_indexing": rows}, early_stopping=False)
    split = np.repeat(["train", "heldout"], [80, 20])
    np.testing.assert_array_equal(training_split(model, packed), split)
    in_input_order = split[np.argsort(packed.obs["isovi_row"])]
    np.testing.assert_array_equal(training_split(model, tissue()), in_input_order)


def test_the_layer_of_the_counts_is_read() -> None:
    adata = tissue()
    adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
    IsoSCVI.setup_anndata(adata, layer="counts")
    model = trained(IsoSCVI(adata, n_latent=2, n_hidden=8))
    np.testing.assert_array_equal(training_split(model, adata), SPLIT)
    assert (training_split(model, tissue()) == "").all()  # it has no such layer


def test_without_all_genes_it_is_not_known(model: Any) -> None:
    assert (training_split(model, tissue()[:, 1:].copy()) == "").all()


def test_a_model_made_from_another_knows_the_cells_of_both(model: Any) -> None:
    scanvi = preserve_distances(SCANVI).from_scvi_model(model, "unknown", labels_key="label")
    np.testing.assert_array_equal(training_split(scanvi, tissue()), SPLIT)
    scanvi.train(1, enable_progress_bar=False)
    found = training_split(scanvi, tissue())
    assert (found[:60] == "train").all()
    assert (found[scanvi.train_indices] == "train").all() and (found == "train").sum() > 60


def test_no_cell_was_trained_on_by_an_untrained_model() -> None:
    adata = tissue()
    IsoSCVI.setup_anndata(adata)
    assert (training_split(IsoSCVI(adata), adata) == "heldout").all()


# ---------------------------------------------------------------------------- models without a record


def test_rows_of_its_own_data_tell_for_a_model_of_scvi_tools() -> None:
    adata = tissue()
    SCVI.setup_anndata(adata)
    model = trained(SCVI(adata, n_latent=2, n_hidden=8))
    found, split = changed(tissue())
    with pytest.warns(IsoviWarning, match="row numbers of its last training"):
        np.testing.assert_array_equal(training_split(model, found), split)


def saved_without_a_record(folder: Path) -> None:
    """As isoVI 0.1.0 saved."""
    model = fitted(tissue())
    del model.seen_cells_
    model.save(str(folder))


def test_so_they_do_for_a_model_of_an_earlier_version_with_its_data(tmp_path: Path) -> None:
    saved_without_a_record(tmp_path / "model")
    model = IsoSCVI.load(str(tmp_path / "model"), adata=tissue())
    with pytest.warns(IsoviWarning, match="row numbers of its last training"):
        np.testing.assert_array_equal(training_split(model, changed(tissue())[0]), changed(tissue())[1])


def test_with_other_data_or_after_further_training_it_is_not_known(tmp_path: Path) -> None:
    saved_without_a_record(tmp_path / "model")
    for adata in (tissue()[:50].copy(), False):
        model = IsoSCVI.load(str(tmp_path / "model"), adata=adata)
        assert (training_split(model, tissue()) == "").all()
    query = IsoSCVI.load_query_data(tissue(seed=1), str(tmp_path / "model"))
    assert (training_split(query, tissue()) == "").all()
    trained(query)
    assert (training_split(query, tissue(seed=1)) == "").all()
    assert query.seen_cells_ is None


def test_the_record_is_plain_arrays_of_eight_bytes_a_cell(model: Any) -> None:
    kinds = {part: (type(cells), cells.dtype, len(cells)) for part, cells in model.seen_cells_.items()}
    assert kinds == {"train": (np.ndarray, np.uint64, 60), "validation": (np.ndarray, np.uint64, 20)}


def test_scvi_tools_keeps_what_ends_in_an_underscore(model: Any, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"), scvi_format=True)
    saved = scvi.model.base._save_load._load_saved_files(str(tmp_path / "model"), load_adata=False)[0]
    np.testing.assert_array_equal(saved["seen_cells_"]["train"], model.seen_cells_["train"])
