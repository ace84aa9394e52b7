"""Data that a model was not made of: other genes or another order of them, other layers and units."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData, concat
from scipy import sparse

from isovi import IsoSCVI, IsoVAE, files, tl
from isovi.data.fields import COORDINATES
from isovi.data.pack import pack
from isovi.errors import InputError, IsoviWarning
from isovi.pipeline import split
from isovi.progress import Silent
from isovi.run import Run, Settings
from isovi.simulate import simulate
from isovi.spots import spacing

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*autosharding.*"),
]
N_OBS, N_NEW, N_GENES = 80, 30, 20
SMALL: dict[str, Any] = {"n_latent": 3, "n_layers": 1, "n_hidden": 8}


@pytest.fixture(scope="module")
def tissue() -> AnnData:
    adata = simulate("layers", n_obs=N_OBS + N_NEW, n_genes=N_GENES, seed=0)
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.uns, adata.obs["depth"] = {}, np.linspace(0, 1, adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def new(tissue: AnnData) -> AnnData:
    return tissue[N_OBS:].copy()


def made(kind: Any, tissue: AnnData, **setup: Any) -> Any:
    reference = tissue[:N_OBS].copy()
    kind.setup_anndata(reference, **setup)
    model = kind(reference, **SMALL)
    model.train(2, enable_progress_bar=False)
    return model


@pytest.fixture(scope="module", params=[IsoSCVI, IsoVAE])
def model(request: pytest.FixtureRequest, tissue: AnnData) -> Any:
    return made(request.param, tissue)


def shuffled(adata: AnnData) -> AnnData:
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def filled(adata: AnnData) -> AnnData:
    """The data with its last five genes empty: what data without them stands for."""
    counts = adata.X.toarray()
    counts[:, 15:] = 0
    return AnnData(sparse.csr_matrix(counts), obs=adata.obs, var=adata.var, obsm=dict(adata.obsm))


# ---------------------------------------------------------------------------- latents of other data


def test_genes_in_another_order_give_the_same_latent(model: Any, new: AnnData) -> None:
    right, other = model.get_latent_representation(new.copy()), shuffled(new)
    with pytest.warns(IsoviWarning, match="brought to the order of the model"):
        found = model.get_latent_representation(other)
    np.testing.assert_array_equal(found, right)
    assert other.var_names.equals(shuffled(new).var_names), "the caller's data stays"


def test_other_methods_match_genes_as_well(model: Any, new: AnnData) -> None:
    found = []
    for data in (new.copy(), shuffled(new)):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # it draws from the posterior
            found.append(model.get_normalized_expression(data, library_size=1.0))
    pd.testing.assert_frame_equal(*found)


def test_missing_genes_have_no_counts_and_others_are_left_out(model: Any, new: AnnData) -> None:
    more = shuffled(new)[:, ~shuffled(new).var_names.isin(new.var_names[15:])].copy()
    strange = AnnData(
        sparse.hstack([more.X, np.ones((N_NEW, 2), dtype=np.float32)], format="csr"),
        obs=more.obs,
        var=pd.DataFrame(index=[*more.var_names, "strange1", "strange2"]),
        obsm=dict(more.obsm),
    )
    with pytest.warns(IsoviWarning, match=r"5 of the model's 20 are missing .* 2 that it does not know"):
        found = model.get_latent_representation(strange)
    np.testing.assert_allclose(found, model.get_latent_representation(filled(new)), atol=1e-6)


def test_genes_of_other_names_are_refused(model: Any, new: AnnData) -> None:
    other = new.copy()
    other.var_names = [f"ENSG{i:011d}" for i in range(other.n_vars)]
    for refused in (model.get_latent_representation, lambda data: type(model).load_query_data(data, model)):
        with pytest.raises(InputError, match="None of the data's 20 genes"):
            refused(other)


def test_values_that_are_no_counts_are_refused(model: Any, new: AnnData) -> None:
    other = new.copy()
    other.X = other.X.log1p()
    with pytest.raises(InputError, match="these look like logarithms"):
        model.get_latent_representation(other)


def test_a_model_of_other_values_takes_other_values(tissue: AnnData) -> None:
    reference = tissue[:N_OBS].copy()
    reference.X = reference.X.log1p()
    IsoSCVI.setup_anndata(reference)
    gaussian = IsoSCVI(reference, gene_likelihood="normal", **SMALL)
    gaussian.train(1, enable_progress_bar=False)
    other = tissue[N_OBS:].copy()
    other.X = other.X.log1p()
    assert np.isfinite(gaussian.get_latent_representation(other)).all()


# ---------------------------------------------------------------------------- loading


def test_a_saved_model_is_loaded_with_genes_in_any_order(model: Any, tissue: AnnData, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"), overwrite=True)
    data = shuffled(tissue[:N_OBS].copy())
    with pytest.warns(IsoviWarning, match="brought to the order of the model"):
        loaded = type(model).load(str(tmp_path / "model"), adata=data)
    assert loaded.adata.var_names.equals(model.adata.var_names)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-6
    )


def test_a_saved_model_is_not_loaded_with_other_genes(model: Any, tissue: AnnData, tmp_path: Path) -> None:
    """As scvi-tools has it; a query with other genes is for load_query_data."""
    model.save(str(tmp_path / "model"), overwrite=True)
    fewer = tissue[:N_OBS, 1:].copy()
    renamed = tissue[:N_OBS].copy()
    renamed.var_names = ["another", *renamed.var_names[1:]]
    for data in (fewer, renamed):
        with pytest.raises(ValueError, match="other genes than the model"):
            type(model).load(str(tmp_path / "model"), adata=data)


def test_a_query_is_prepared_by_a_saved_reference(model: Any, new: AnnData, tmp_path: Path) -> None:
    model.save(str(tmp_path / "model"), overwrite=True)
    query = new[:, 5:].copy()
    for reference in (str(tmp_path / "model"), model):
        found = type(model).prepare_query_anndata(query, reference, inplace=False)
        assert found.var_names.equals(model.adata.var_names)
        names = type(model).prepare_query_anndata(query, reference, return_reference_var_names=True)
        assert names.equals(model.adata.var_names)


@pytest.mark.parametrize("by_path", [False, True])
def test_query_data_may_have_its_genes_in_any_order_or_lack_some(
    by_path: bool, model: Any, new: AnnData, tmp_path: Path
) -> None:
    reference: Any = model
    if by_path:
        reference = str(tmp_path / "model")
        model.save(reference)
    query = shuffled(new)[:, ~shuffled(new).var_names.isin(new.var_names[15:])].copy()
    with pytest.warns(IsoviWarning, match="5 of the model's 20 are missing"):
        found = type(model).load_query_data(query, reference)
    right = type(model).load_query_data(filled(new), reference)
    for one in (found, right):
        one.is_trained_ = True
    np.testing.assert_allclose(
        found.get_latent_representation(), right.get_latent_representation(), atol=1e-6
    )


@pytest.mark.parametrize("factor", [0.1, 12.0])
def test_a_query_in_another_unit_is_warned_of(factor: float, model: Any, new: AnnData) -> None:
    query = new.copy()
    query.obsm["spatial"] = query.obsm["spatial"] * factor
    with pytest.warns(IsoviWarning, match="may be in another unit"):
        type(model).load_query_data(query, model)


def test_a_query_in_the_same_unit_is_not_warned_of(model: Any, tissue: AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsoviWarning)
        type(model).load_query_data(tissue[:N_OBS].copy(), model)


def test_a_section_of_its_own_has_its_own_unit(tissue: AnnData) -> None:
    data = tissue.copy()
    data.obs["section"] = "first"
    sections = made(IsoSCVI, data, section_key="section")
    query = data[N_OBS:].copy()
    query.obs["section"] = "second"
    query.obsm["spatial"] = query.obsm["spatial"] * 0.1
    found = IsoSCVI.load_query_data(query, sections)
    at = found.adata_manager.get_from_registry(COORDINATES)
    assert spacing(np.asarray(at)) == pytest.approx(1, abs=1e-4)


# ---------------------------------------------------------------------------- columns of a query


@pytest.fixture(scope="module")
def with_columns(tissue: AnnData) -> Any:
    """A model of a numeric batch, a categorical and a continuous covariate, and a placer of it."""
    reference = tissue[:N_OBS].copy()
    reference.obs["slide"] = np.where(np.arange(N_OBS) % 3, 1, 2)
    reference.obs["kit"] = pd.Categorical(np.where(np.arange(N_OBS) % 4, "old", "new"))
    covariates = {"categorical_covariate_keys": ["kit"], "continuous_covariate_keys": ["depth"]}
    model = made(IsoSCVI, reference, batch_key="slide", **covariates)
    return tl.SpatialPlacer(model).fit(reference)


@pytest.fixture
def columns(new: AnnData) -> AnnData:
    query = new.copy()
    query.obs["slide"], query.obs["kit"] = 1, "new"
    return query


WRONG_NUMBERS: dict[str, Any] = {
    "missing": None,
    "NaN": lambda depth: np.where(np.arange(len(depth)) < 2, np.nan, depth),
    "infinite": lambda depth: np.where(np.arange(len(depth)) < 2, np.inf, depth),
    "words": lambda depth: ["low", "high", *depth.astype(str)[2:]],
    "nullable": lambda depth: pd.array([None, None, *depth[2:]], dtype="Float64"),
}


@pytest.mark.parametrize("how", list(WRONG_NUMBERS))
def test_a_covariate_without_numbers_is_refused_by_name(
    how: str, with_columns: Any, columns: AnnData
) -> None:
    depth = columns.obs.pop("depth").to_numpy()
    if how != "missing":
        columns.obs["depth"] = WRONG_NUMBERS[how](depth)
    words = 'has no "depth"' if how == "missing" else f"no finite number for 2 of {N_NEW} cells"
    with pytest.raises(InputError, match=rf"{words}.*continuous_covariate_keys"):
        with_columns.place(columns)


SAME_COLUMNS: dict[str, Any] = {
    "text": {"depth": str, "slide": str, "kit": object},
    "categories": {"depth": "category", "slide": "category", "kit": "category"},
    "decimals": {"depth": "float32", "slide": float, "kit": "string"},
    "nullable": {"depth": "Float64", "slide": "Int64", "kit": "string"},
}


@pytest.mark.parametrize("how", list(SAME_COLUMNS))
def test_columns_of_a_query_may_be_of_other_types(how: str, with_columns: Any, columns: AnnData) -> None:
    right = with_columns.predict(columns)
    for name, dtype in SAME_COLUMNS[how].items():
        columns.obs[name] = columns.obs[name].astype(dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has seen.*")
        np.testing.assert_allclose(with_columns.predict(columns), right, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "n", "most"),
    [
        ("slide", None, N_NEW, "1"),
        ("slide", 7, N_NEW, "1"),
        ("slide", [3] * 4 + [2] * (N_NEW - 4), 4, "1"),
        ("kit", None, N_NEW, "old"),
        ("kit", "newest", N_NEW, "old"),
    ],
)
def test_batches_and_categories_that_the_model_has_not_seen_are_said(
    key: str, value: Any, n: int, most: str, with_columns: Any, columns: AnnData
) -> None:
    del columns.obs[key]
    if value is not None:
        columns.obs[key] = value
    words = rf'obs\["{key}"\] of {n} of {N_NEW} cells is none that the model has seen: they count as "{most}"'
    with pytest.warns(IsoviWarning, match=words):
        assert np.isfinite(with_columns.predict(columns)).all()


def test_cells_without_counts_in_the_genes_of_a_model_are_flagged(model: Any, tissue: AnnData) -> None:
    placer = tl.SpatialPlacer(model).fit(tissue[:N_OBS].copy())
    query = tissue[N_OBS:].copy()
    counts = query.X.toarray()
    counts[:3] = 0
    other = AnnData(np.ones((N_NEW, 1)), obs=query.obs[[]], var=pd.DataFrame(index=["of another panel"]))
    query = concat([AnnData(counts, obs=query.obs[[]], var=query.var), other], axis=1)
    with pytest.warns(IsoviWarning, match=f"3 of {N_NEW} cells have no count in the model's genes"):
        assert placer.place(query).flagged[:3].all()


# ---------------------------------------------------------------------------- isovi place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tissue: AnnData) -> Path:
    """Runs of the same counts in X, in a layer and in a packed store, and a query."""
    folder = tmp_path_factory.mktemp("place")
    reference = tissue[:N_OBS].copy()
    reference.write_h5ad(folder / "x.h5ad")
    reference.layers["counts"] = reference.X
    reference.write_h5ad(folder / "layer.h5ad")
    pack(folder / "x.h5ad", folder / "packed.zarr")
    asked: dict[str, Any] = {"holdout": 0.2, "n_latent": 3, "max_epochs": 2}
    for name, settings in (
        ("x.h5ad", Settings(**asked)),
        ("layer.h5ad", Settings(layer="counts", **asked)),
        ("packed.zarr", Settings(**asked)),
    ):
        files.fit(folder / name, folder / f"run_{name}", settings, progress=Silent())
    tissue[N_OBS:].copy().write_h5ad(folder / "query.h5ad")
    return folder


def place(folder: Path, run: str, query: str = "query.h5ad", **more: Any) -> np.ndarray:
    out = folder / f"placed_{run}_{query}"
    more = {"progress": Silent(), **more}
    files.place(folder / run, folder / query, out, force=True, **more)
    return np.asarray(AnnData.__module__ and _read(out).obsm["X_placed"])


def _read(path: Path) -> AnnData:
    import anndata

    return anndata.read_h5ad(path)


def test_counts_of_a_query_may_be_elsewhere_than_those_of_the_run(folder: Path, new: AnnData) -> None:
    right = place(folder, "run_layer.h5ad")  # the query has counts in X only
    query = new.copy()
    query.layers["umi"] = query.X.copy()
    query.X = query.X.log1p()
    query.write_h5ad(folder / "umi.h5ad")
    np.testing.assert_array_equal(place(folder, "run_layer.h5ad", "umi.h5ad", layer="umi"), right)
    assert np.isfinite(place(folder, "run_x.h5ad", "umi.h5ad", layer="umi")).all()
    with pytest.raises(InputError, match='The query has no layer "none"; it has: umi'):
        place(folder, "run_x.h5ad", "umi.h5ad", layer="none")


def test_cells_are_placed_in_the_run_of_a_packed_store(folder: Path) -> None:
    assert np.isfinite(place(folder, "run_packed.zarr")).all()
    run = Run.read(folder / "run_packed.zarr")
    latent = run.model.get_latent_representation()
    np.testing.assert_allclose(latent, run.adata.obsm["X_isovi"], atol=1e-4)


@pytest.mark.parametrize("how", ["sections and numbers as batches", "layer"])
def test_runs_of_packed_stores_place_as_those_of_their_files(
    how: str, tissue: AnnData, tmp_path: Path
) -> None:
    """The same reference in a file and packed: each query is placed in both, far from nowhere."""
    data = tissue.copy()
    data.obs["slide"] = np.arange(N_OBS + N_NEW) % 2 + 10
    setup, packing = {"section_key": "slide", "batch_key": "slide"}, {"section_key": "slide"}
    if how == "layer":
        data.layers["umi"], data.X, setup, packing = data.X, data.X.log1p(), {"layer": "umi"}, {}
    data[:N_OBS].copy().write_h5ad(tmp_path / "x.h5ad")
    data[N_OBS:].copy().write_h5ad(tmp_path / "query.h5ad")
    pack(tmp_path / "x.h5ad", tmp_path / "x.zarr", **packing)
    settings = Settings(holdout=0.2, n_latent=3, max_epochs=2, **setup)
    files.fit(tmp_path / "x.zarr", tmp_path / "run", settings, progress=Silent())
    placed = place(tmp_path, "run")
    low, high = data.obsm["spatial"].min(axis=0), data.obsm["spatial"].max(axis=0)
    assert ((placed >= low - 1) & (placed <= high + 1)).all()
    if how == "layer":
        query = data[N_OBS:].copy()
        query.X = query.layers.pop("umi")  # counts in X alone, as of a query from elsewhere
        query.write_h5ad(tmp_path / "of_x.h5ad")
        np.testing.assert_array_equal(place(tmp_path, "run", "of_x.h5ad"), placed)
    else:
        assert set(_read(tmp_path / "placed_run_query.h5ad").obs["placed_section"]) <= {"10", "11"}


def test_counts_of_a_query_may_be_in_raw_or_corrected(folder: Path, new: AnnData) -> None:
    right = place(folder, "run_x.h5ad")
    query = new.copy()
    query.raw = query.copy()
    query.layers["soupx"], query.X = query.X * 0.93, query.X.log1p()
    query.write_h5ad(folder / "raw.h5ad")
    with pytest.raises(InputError, match=r'these look like logarithms.*pass layer="raw"'):
        place(folder, "run_x.h5ad", "raw.h5ad")
    np.testing.assert_array_equal(place(folder, "run_x.h5ad", "raw.h5ad", layer="raw"), right)
    with pytest.raises(InputError, match=r'layers\["soupx"\] holds .* decontX.*round_counts=True'):
        place(folder, "run_x.h5ad", "raw.h5ad", layer="soupx")
    with pytest.warns(IsoviWarning, match="they are rounded"):
        placed = place(folder, "run_x.h5ad", "raw.h5ad", layer="soupx", round_counts=True)
    assert np.isfinite(placed).all()


def test_cells_of_a_query_without_counts_are_left_out_where_it_is_asked_for(
    folder: Path, new: AnnData
) -> None:
    query = new[:, ::-1].copy()  # in another order of genes as well
    query.X = query.X.multiply((np.arange(N_NEW) != 4)[:, None]).tocsr()
    query.write_h5ad(folder / "empty.h5ad")
    with pytest.raises(InputError, match=r"min_counts=-1 was given"):
        place(folder, "run_x.h5ad", "empty.h5ad", min_counts=-1)
    with pytest.raises(InputError, match=r"1 spots without any count.*min_counts=1"):
        place(folder, "run_x.h5ad", "empty.h5ad")
    with pytest.warns(IsoviWarning, match=f"1 of {N_NEW} cells have no count and are left out"):
        placed = place(folder, "run_x.h5ad", "empty.h5ad", min_counts=1)
    np.testing.assert_allclose(placed, np.delete(place(folder, "run_x.h5ad"), 4, axis=0))


def test_a_run_whose_store_is_gone_says_where_it_was(folder: Path) -> None:
    run = Run.read(folder / "run_packed.zarr")
    run.provenance.source["path"] = str(folder / "gone.zarr")  # type: ignore[index]
    with pytest.raises(InputError, match=r"gone\.zarr"):
        run.model_data()


class Said(Silent):
    """What was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def of_table(positions: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(positions, columns=["x", "y"])


POSITIONS: dict[str, Any] = {  # of a query, and what is said of them
    "one is NaN": (
        lambda at: np.where(np.arange(len(at))[:, None] == 5, np.nan, at),
        "1 cells of the query have",
    ),
    "all are NaN": (
        lambda at: np.full_like(at, np.nan),
        f"{N_NEW} cells of the query have no finite position",
    ),
    "infinite": (
        lambda at: np.where(np.arange(len(at))[:, None] < 2, np.inf, at),
        "2 cells of the query have",
    ),
    "an empty z": (lambda at: np.c_[at, np.full(len(at), np.nan)], "Placed"),
    "one column": (lambda at: at[:, :1], "Errors are not measured, for lack of positions"),
    "text": (lambda at: of_table(at).astype(str), "Errors are not measured, for lack of positions"),
}


@pytest.mark.parametrize("how", list(POSITIONS))
def test_a_query_needs_no_positions(how: str, folder: Path, new: AnnData) -> None:
    change, words = POSITIONS[how]
    query, said = new.copy(), Said()
    positions = change(query.obsm["spatial"].astype(float))
    if isinstance(positions, pd.DataFrame):
        positions.index = query.obs_names
    query.obsm["spatial"] = positions
    query.write_h5ad(folder / "nan.h5ad")
    right = place(folder, "run_x.h5ad")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", IsoviWarning)
        np.testing.assert_array_equal(place(folder, "run_x.h5ad", "nan.h5ad", progress=said), right)
    assert words in " ".join([*said.lines, *(str(one.message) for one in warned)])


BATCHES: dict[str, Any] = {  # held-out and validation spots of a batch of their own, and what it is called
    "one held out": (1, 0, lambda of: np.where(of, "y", "x"), r"y \(1 spots\)"),
    "two held out, numbers": (2, 0, lambda of: of.astype(int), r"1 \(2 spots\)"),
    "one of each, categories": (1, 1, lambda of: pd.Categorical(np.where(of, "y", "x")), r"y \(2 spots\)"),
    "for validation, truth values": (0, 1, lambda of: of, r"True \(1 spots\)"),
}


@pytest.mark.parametrize("how", list(BATCHES))
def test_a_batch_without_training_spots_is_refused_with_its_size(how: str, tissue: AnnData) -> None:
    n_heldout, n_validation, named, words = BATCHES[how]
    data = tissue[:N_OBS].copy()
    spots = split(data, Settings(holdout=0.2))
    own = [*spots.rows("heldout")[:n_heldout], *spots.rows("validation")[:n_validation]]
    data.obs["batch"] = named(np.isin(np.arange(N_OBS), own))
    with pytest.raises(InputError, match=rf"{words}.*Leave these spots out, merge the batch"):
        split(data, Settings(holdout=0.2, batch_key="batch"))


def test_a_section_that_is_held_out_and_a_batch_of_its_own_is_refused(tissue: AnnData) -> None:
    data = tissue[:N_OBS].copy()
    data.obs["slide"] = np.where(np.arange(N_OBS) < 30, 1, 2)
    asked: dict[str, Any] = {"section_key": "slide", "batch_key": "slide", "holdout": "section:1"}
    with pytest.raises(
        InputError, match=r"1 \(30 spots\).*Hold out a share of spots instead, or leave batch_key"
    ):
        split(data, Settings(**asked))
