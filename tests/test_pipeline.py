from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from matplotlib.colors import to_rgba_array
from scipy import sparse

import isovi
from isovi import (
    AllPairs,
    Constraint,
    InputError,
    IsoVAE,
    IsoviWarning,
    Neighbors,
    Penalty,
    Radius,
    pipeline,
    pl,
)
from isovi.data import check, pack
from isovi.pipeline import (
    MIN_SPOTS,
    WHOLE,
    choose_genes,
    content_hash,
    most_variable,
    report_metrics,
    split,
)
from isovi.pl._data import shepard_pairs
from isovi.progress import Progress
from isovi.run import Run, Settings
from isovi.simulate import simulate
from isovi.spots import HELDOUT, TRAIN, VALIDATION, Spots

FIRST_FIT = """
import isovi
from isovi.simulate import simulate

adata = simulate("layers", n_obs=80, n_genes=20)
run = isovi.fit(adata, holdout=0.3, max_epochs=2, label_key="domain")
isovi.pl.domains(run.adata)
run.model.get_normalized_expression(library_size=1e4)
repr(run), run._repr_html_()
"""
THEIRS = "ignore:The 'mode.chained_assignment' option:"  # which anndata 0.13 sets, and pandas 3 no longer has
SHORT: dict[str, Any] = {"max_epochs": 2, "n_latent": 4, "progress": False}


def parts_of(adata: AnnData, holdout: float | str, seed: int = 0, **settings: Any) -> np.ndarray:
    return split(adata, Settings(holdout=holdout, seed=seed, **settings)).split


def points(n_obs: int) -> AnnData:
    """Positions only."""
    rng = np.random.default_rng(1)
    return AnnData(obsm={"spatial": rng.uniform(0, 10, (n_obs, 2))})


# ---------------------------------------------------------------------------- the split


@pytest.mark.parametrize("holdout", [0.0, 0.1, 0.25, 0.7])
@pytest.mark.parametrize("n_obs", [40, 101])
def test_every_spot_has_one_part_and_the_parts_have_their_shares(n_obs: int, holdout: float) -> None:
    parts = parts_of(points(n_obs), holdout)
    n_heldout = round(holdout * n_obs)
    n_validation = round(0.1 * (n_obs - n_heldout))
    counted = {part: int((parts == part).sum()) for part in (TRAIN, VALIDATION, HELDOUT)}
    n_train = n_obs - n_heldout - n_validation
    assert counted == {TRAIN: n_train, VALIDATION: n_validation, HELDOUT: n_heldout}


def test_the_seed_decides_the_split() -> None:
    np.testing.assert_array_equal(parts_of(points(100), 0.25, seed=3), parts_of(points(100), 0.25, seed=3))
    assert (parts_of(points(100), 0.25, seed=3) != parts_of(points(100), 0.25, seed=4)).any()


def test_spots_are_held_out_alike_wherever_they_stand_in_the_file() -> None:
    adata = points(50)
    held_out = np.mean([parts_of(adata, 0.2, seed) == HELDOUT for seed in range(400)], axis=0)
    assert np.abs(held_out - 0.2).max() < 0.1  # 400 draws of probability 0.2: standard error 0.02


@pytest.mark.parametrize("holdout", ["", "half", -0.1, 0.95, 1.0, np.nan, np.inf, "batch:a"])
def test_other_values_of_holdout_are_refused(holdout: Any) -> None:
    with pytest.raises(InputError, match=r"between 0 and 0\.9, or section:NAME") as raised:
        Settings(holdout=holdout)
    assert f"holdout={holdout} " in str(raised.value)


@pytest.mark.parametrize("holdout", ["0.25", 0.25])
def test_a_share_may_be_text_or_a_number(holdout: Any) -> None:
    assert Settings(holdout=holdout) == Settings(holdout=0.25)


def test_a_section_is_held_out_by_name(tissue: AnnData) -> None:
    parts = parts_of(tissue, "section:section_1", section_key="section")
    np.testing.assert_array_equal(parts == HELDOUT, tissue.obs["section"] == "section_1")
    tissue.obs["slide"] = np.where(tissue.obs["section"] == "section_1", 151673, 151674)
    numbered = parts_of(tissue, "section:151673", section_key="slide")
    np.testing.assert_array_equal(numbered, parts)


def test_a_section_that_cannot_be_held_out_is_refused(tissue: AnnData) -> None:
    with pytest.raises(InputError, match=r"section_0.*section_1"):
        parts_of(tissue, "section:section_9", section_key="section")
    with pytest.raises(InputError, match="section_key is not given"):
        parts_of(tissue, "section:section_1")
    alone = tissue[tissue.obs["section"] == "section_1"].copy()
    with pytest.raises(InputError, match="holds out every spot"):
        parts_of(alone, "section:section_1", section_key="section")


# ---------------------------------------------------------------------------- genes


@pytest.fixture
def train(tissue: AnnData) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=tissue.n_obs) < 0.6


def genes_of(tissue: AnnData, train: np.ndarray, **settings: Any) -> np.ndarray:
    spots = replace(check.spots(tissue), split=np.where(train, TRAIN, HELDOUT).astype("<U10"))
    return choose_genes(tissue, spots, Settings(**settings))


@pytest.mark.parametrize("n_top_genes", [0, 10])
def test_counts_of_other_spots_do_not_matter(tissue: AnnData, train: np.ndarray, n_top_genes: int) -> None:
    before = genes_of(tissue, train, n_top_genes=n_top_genes)
    counts = tissue.X.toarray()
    counts[~train] = np.random.default_rng(1).poisson(50, counts[~train].shape)
    tissue.X = sparse.csr_matrix(counts)
    np.testing.assert_array_equal(genes_of(tissue, train, n_top_genes=n_top_genes), before)


def test_counts_of_training_spots_matter(tissue: AnnData, train: np.ndarray) -> None:
    before = genes_of(tissue, train, n_top_genes=10)
    counts = tissue.X.toarray()
    gene = int(np.flatnonzero(~before)[-1])
    counts[train, gene] = np.where(np.arange(train.sum()) % 10, 0, 100)
    tissue.X = sparse.csr_matrix(counts)
    assert genes_of(tissue, train, n_top_genes=10)[gene]


@pytest.mark.parametrize(("n_spots", "kept"), [(MIN_SPOTS - 1, False), (MIN_SPOTS, True)])
def test_a_gene_must_be_seen_in_five_training_spots(
    tissue: AnnData, train: np.ndarray, n_spots: int, kept: bool
) -> None:
    counts = tissue.X.toarray()
    counts[:, 3] = 0
    counts[np.flatnonzero(train)[:n_spots], 3] = 7
    counts[~train, 3] = 7
    tissue.X = sparse.csr_matrix(counts)
    assert genes_of(tissue, train, n_top_genes=0)[3] == kept


@pytest.mark.parametrize("n_top_genes", [0, -1, 1000])
def test_without_a_limit_all_seen_genes_are_kept(
    tissue: AnnData, train: np.ndarray, n_top_genes: int
) -> None:
    seen = (tissue.X.toarray()[train] > 0).sum(axis=0) >= MIN_SPOTS
    assert not seen.all()
    np.testing.assert_array_equal(genes_of(tissue, train, n_top_genes=n_top_genes), seen)


def test_the_wanted_number_is_kept_and_they_vary_most(tissue: AnnData, train: np.ndarray) -> None:
    kept = genes_of(tissue, train, n_top_genes=10)
    assert kept.sum() == 10
    counts = tissue.X.toarray()[train]
    shares = counts.sum(axis=0) / counts.sum()
    expected = counts.sum(axis=1, keepdims=True) * shares
    spread = np.sqrt(len(counts))  # scanpy clips residuals there
    with np.errstate(invalid="ignore"):
        residuals = (counts - expected) / np.sqrt(expected + expected**2 / 100)
    variance = np.nan_to_num(np.clip(residuals, -spread, spread).var(axis=0))
    seen = (counts > 0).sum(axis=0) >= MIN_SPOTS
    # Totals here are over all genes, there over those that are seen often enough: hence not the exact order.
    top = np.argsort(np.where(seen, variance, 0))[::-1]
    assert set(np.flatnonzero(kept)) <= set(top[:12].tolist())


def test_dense_counts_and_layers_give_the_same_genes(tissue: AnnData, train: np.ndarray) -> None:
    expected = genes_of(tissue, train, n_top_genes=10)
    tissue.layers["dense"] = tissue.X.toarray()
    tissue.X = sparse.csr_matrix(tissue.shape)
    for layer in ("counts", "dense"):
        np.testing.assert_array_equal(genes_of(tissue, train, n_top_genes=10, layer=layer), expected)


def test_spots_without_counts_do_not_matter(tissue: AnnData) -> None:
    counts = sparse.csr_matrix(tissue.X[:, tissue.X.getnnz(axis=0) > 0])
    with_empty = sparse.vstack([counts, sparse.csr_matrix((3, counts.shape[1]))], format="csr")
    kept = most_variable(counts, 10)
    assert kept.sum() == 10
    np.testing.assert_array_equal(most_variable(with_empty, 10), kept)


def test_data_without_usable_genes_is_refused(tissue: AnnData) -> None:
    few = np.arange(tissue.n_obs) < MIN_SPOTS - 1
    with pytest.raises(InputError, match="No gene is seen in 5 of the 4 training spots"):
        genes_of(tissue, few, n_top_genes=10)


def test_a_spot_without_counts_in_the_chosen_genes_is_refused(tissue: AnnData) -> None:
    counts = tissue.X.toarray()
    rare = np.flatnonzero(tissue.X.getnnz(axis=0) == 0)[0]
    counts[5], counts[5, rare] = 0, 1  # its only gene is dropped: no other spot has it
    tissue.X = sparse.csr_matrix(counts)
    with pytest.raises(
        InputError, match=r"1 spot has no count in the .* at most 1\. .*filter_cells\(adata, min_counts=2\)"
    ):
        isovi.fit(tissue, n_top_genes=0, **SHORT)


# ---------------------------------------------------------------------------- one fit


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """Irregular positions of two sections, so that the unit would depend on which spots are looked at."""
    adata = simulate("layers", n_obs=120, n_genes=40, n_sections=2, seed=0)
    adata.obsm["spatial"] = adata.obsm["spatial"] + np.random.default_rng(0).normal(0, 30, (120, 2))
    return adata


@pytest.fixture(scope="module")
def fitted(adata: AnnData) -> Run:
    return isovi.fit(adata, holdout=0.5, section_key="section", **SHORT)


def test_neither_data_nor_global_state_is_changed(adata: AnnData) -> None:
    """Bug 7: the fit seeded every generator and left scvi-tools quiet.

    Python's own generator is left out: the shape checks of these tests draw from it.
    """

    def seed() -> None:
        np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002  # a caller who uses them

    def drawn() -> tuple[float, float]:
        return np.random.random(), torch.rand(1).item()  # noqa: NPY002  # likewise

    before, names = adata.copy(), ("scvi", "lightning", "isovi")
    levels = [logging.getLogger(name).level for name in names]
    settings = scvi.settings.seed, scvi.settings.verbosity
    seed()
    isovi.fit(adata, holdout=0.25, section_key="section", **SHORT)
    found = drawn()
    seed()
    assert found == drawn()
    assert (scvi.settings.seed, scvi.settings.verbosity) == settings
    assert [logging.getLogger(name).level for name in names] == levels
    for part in ("obs", "var", "obsm", "uns"):
        assert set(getattr(adata, part)) == set(getattr(before, part))
    assert (adata.X != before.X).nnz == 0


@pytest.mark.parametrize("pairs", [AllPairs(), AllPairs() | Neighbors(6)], ids=["all", "near"])
def test_the_seed_alone_decides_the_latent(adata: AnnData, pairs: Any) -> None:
    latents = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        run = isovi.fit(adata, section_key="section", pairs=pairs, seed=seed, **SHORT)
        latents.append(run.adata.obsm["X_isovi"])
    assert np.array_equal(latents[0], latents[1])
    assert not np.array_equal(latents[0], latents[2])


def test_the_run_has_latent_domains_split_genes_and_settings(fitted: Run) -> None:
    adata = fitted.adata
    assert adata.obsm["X_isovi"].shape == (120, 4)
    assert adata.obs["isovi_domain"].nunique() == fitted.metrics["n_domains"]
    assert adata.obs["isovi_split"].value_counts()[HELDOUT] == fitted.metrics["n_heldout"] == 60
    assert adata.var["isovi_gene"].sum() == fitted.metrics["n_genes"]
    assert adata.uns["isovi"]["id"] == fitted.id == fitted.model.run_id_
    assert adata.uns["isovi"]["settings"]["section_key"] == "section"
    assert np.array_equal(adata.obs["isovi_split"].astype(str), fitted.split)


def test_held_out_spots_take_no_part_in_training_or_stopping(fitted: Run) -> None:
    for part, indices in (
        (TRAIN, fitted.model.train_indices),
        (VALIDATION, fitted.model.validation_indices),
        (HELDOUT, fitted.model.test_indices),
    ):
        assert np.array_equal(np.sort(indices), np.flatnonzero(fitted.split == part))


def test_the_unit_is_that_of_all_spots_whatever_is_held_out(adata: AnnData, fitted: Run) -> None:
    """Bug 2: the model measured in the spacing of the spots that were not held out."""
    units = Spots.at(adata.obsm["spatial"], *check.sections(adata, "section")).units
    assert fitted.model.coordinate_units == fitted.spots.units == units
    none = isovi.fit(adata, holdout=0.0, section_key="section", **SHORT)
    assert none.model.coordinate_units == units


def test_the_diagonal_of_the_shepard_plot_is_one(adata: AnnData) -> None:
    """Bug 2: λ of one unit was multiplied with distances of another, slope 0.74 on such cells."""
    run = isovi.fit(adata, holdout=0.5, section_key="section", **SHORT)
    run.adata.obsm["X_isovi"] = 3.0 * run.spots.coordinates  # an isometry up to scale
    in_latent, in_tissue = shepard_pairs(run.adata.obsm["X_isovi"], run.spots, 3.0)
    for part in ("training", "held out"):
        np.testing.assert_allclose(in_latent[part], in_tissue[part], rtol=1e-6)


def test_held_out_positions_do_not_reach_the_pairs_of_training(adata: AnnData, fitted: Run) -> None:
    """Bug 3: pair graphs of packed data had held-out spots in them.

    Where positions are exchanged among the held-out spots of a section, its unit and centre stay the same.
    """
    moved, rng = adata.copy(), np.random.default_rng(0)
    for section in ("section_0", "section_1"):
        rows = np.flatnonzero((fitted.split == HELDOUT) & (adata.obs["section"] == section))
        moved.obsm["spatial"][rows] = adata.obsm["spatial"][rng.permutation(rows)]
    asked = {"holdout": 0.5, "section_key": "section", "pairs": Neighbors(4), **SHORT}
    runs = [isovi.fit(data, **asked) for data in (adata, moved)]
    assert runs[0].spots.units == runs[1].spots.units
    assert not np.array_equal(runs[0].spots.coordinates, runs[1].spots.coordinates)
    assert np.array_equal(*(run.adata.obsm["X_isovi"] for run in runs))
    assert runs[0].metrics["distance_scale"] == runs[1].metrics["distance_scale"]


def test_each_stage_is_reported(tissue: AnnData) -> None:
    said: list[str] = []

    class Recorded(Progress):
        def say(self, text: str) -> None:
            said.append(text)

        def epoch(self, done: int, total: int, metrics: Any) -> None:
            said.append(f"epoch {done} of {total}, {metrics['elbo_train'] > 0}")

    isovi.fit(tissue, holdout=0.25, max_epochs=2, n_latent=4, progress=Recorded())
    starts = [
        "Split into 81 train, 9 validation, 30 heldout spots",
        "epoch 1 of 2, True",
        "epoch 2 of 2, True",
    ]
    starts += ["Trained 2 epochs", "Held-out spots: ", WHOLE, "Held-out geometry: ", "Verdict: "]
    assert [line.startswith(start) for line, start in zip(said, starts, strict=True)] == [True] * len(starts)


def test_a_certificate_for_the_usual_share_of_pairs_needs_no_remark(fitted: Run) -> None:
    said: list[str] = []

    class Recorded(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    certificate = {"epsilon": 0.1, "L": 3.456, "delta": 0.05, "n_pairs": 200}
    run = replace(fitted, metrics={**fitted.metrics, "certificate": certificate})
    run.adata = fitted.adata
    report_metrics(run, Recorded())
    constant = fitted.metrics["heldout"]["distortion_constant"]
    assert said[-2].endswith(f"L(0.1) = {constant:.2f}; certified with 95% confidence: L(0.1) <= 3.46")


def test_colours_of_domains_are_kept_where_scanpy_looks(fitted: Run) -> None:
    names = fitted.adata.obs["isovi_domain"].cat.categories
    colors = fitted.adata.uns["isovi_domain_colors"]
    assert len(colors) == len(names)
    drawn = pl.domains(fitted.adata).collections[0].get_facecolors()
    codes = fitted.adata.obs["isovi_domain"].cat.codes
    assert np.allclose(drawn, to_rgba_array(colors)[codes])


def test_plain_is_the_same_network_without_pressure(tissue: AnnData) -> None:
    run = isovi.fit(tissue, distortion=Penalty(0.0), **SHORT)
    assert "relative_distortion_train" in run.history  # measured all the same
    assert run.model.module.n_latent == 4


def test_the_backbone_itself_has_no_scale(tissue: AnnData) -> None:
    run = isovi.fit(tissue, distortion=None, holdout=0.25, **SHORT)
    assert run.metrics["distance_scale"] is None
    assert run.metrics["heldout"]["coordinate_error"] > 0


def test_vae_with_a_penalty_without_held_out_spots(tissue: AnnData) -> None:
    run = isovi.fit(tissue, backbone="vae", distortion=Penalty(5.0), holdout=0.0, **SHORT)
    assert isinstance(run.model, IsoVAE)
    assert run.metrics["n_heldout"] == 0 and "heldout" not in run.metrics
    assert run.metrics["certificate"] == {}


def test_a_whole_section_is_held_out(tissue: AnnData) -> None:
    run = isovi.fit(
        tissue,
        section_key="section",
        holdout="section:section_1",
        distortion=Constraint(0.3, per_section=True),
        **SHORT,
    )
    np.testing.assert_array_equal(run.split == HELDOUT, tissue.obs["section"] == "section_1")
    scale = run.metrics["distance_scale"]
    assert scale["section_0"] > 0 and np.isnan(scale["section_1"])
    pairs = shepard_pairs(run.adata.obsm["X_isovi"], run.spots, scale)
    assert np.isfinite(pairs[1]["held out"]).all()


def test_a_warning_about_the_data_comes_once(tissue: AnnData) -> None:
    tissue.obsm["spatial"][1] = tissue.obsm["spatial"][0]
    with pytest.warns(IsoviWarning) as caught:
        isovi.fit(tissue, pairs=Neighbors(6), n_top_genes=10, section_key="section", **SHORT)
    assert sum("exactly the position" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_latent": 0}, "n_latent=0 .* at least 1"),
        ({"max_epochs": 0}, "max_epochs=0 .* at least 1"),
        ({"seed": -1}, "seed=-1 .* between 0 and 4294967295"),
        ({"devices": 0}, "devices=0 .* at least 1"),
        ({"backbone": "gan"}, "backbone='gan' .* scvi, vae"),
        ({"holdout": "section:section_1", "section_key": "section", "batch_key": "section"}, "never saw"),
        ({"spatial_key": "xy"}, 'no "xy"'),
        ({"section_key": "slide"}, 'no column "slide"'),
        ({"batch_key": "donor"}, 'no column "donor"'),
        ({"label_key": "truth"}, 'no column "truth"'),
        ({"layer": "raw"}, 'no "raw"'),
    ],
)
def test_what_cannot_be_met_is_refused_before_training(
    tissue: AnnData, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))
    with pytest.raises(InputError, match=message):
        isovi.fit(tissue, progress=False, **settings)


def test_too_few_training_spots_are_refused(tissue: AnnData) -> None:
    with pytest.raises(InputError, match="of 60 spots are left for training"):
        isovi.fit(tissue[:60].copy(), holdout=0.9, progress=False)


def test_too_few_held_out_spots_are_refused(tissue: AnnData) -> None:
    with pytest.raises(InputError, match="1 of 120 spots are held out"):
        isovi.fit(tissue, holdout=0.01, progress=False)


# ---------------------------------------------------------------------------- provenance


def test_the_call_is_a_line_of_python_with_the_settings_that_were_given(fitted: Run) -> None:
    tree = ast.parse(fitted.provenance.call, mode="eval").body
    assert isinstance(tree, ast.Call)
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords}
    assert given == {"holdout": 0.5, "section_key": "section", "max_epochs": 2, "n_latent": 4}


def test_the_hash_is_of_the_content(tissue: AnnData) -> None:
    settings = Settings(section_key="section")
    hashes = {content_hash(tissue, settings), content_hash(tissue.copy(), settings)}
    assert len(hashes) == 1
    for change in (
        lambda a: a.X.data.__setitem__(0, a.X.data[0] + 1),
        lambda a: a.obsm["spatial"].__setitem__((0, 0), -1.0),
        lambda a: setattr(a, "obs_names", [f"x{name}" for name in a.obs_names]),
        lambda a: setattr(a, "var_names", [f"x{name}" for name in a.var_names]),
        lambda a: a.obs.__setitem__("section", list(a.obs["section"][::-1])),
    ):
        changed = tissue.copy()
        change(changed)
        hashes.add(content_hash(changed, settings))
    assert len(hashes) == 6


# ---------------------------------------------------------------------------- memory, file and packed store


@pytest.mark.parametrize("pairs", [AllPairs(), Neighbors(6)], ids=["all", "near"])
def test_a_file_gives_the_same_as_the_data_in_memory(
    tissue: AnnData, tissue_file: Path, tmp_path: Path, fit: Callable, pairs: Any
) -> None:
    keys = {"section_key": "section", "holdout": 0.25, "pairs": pairs}
    memory = isovi.fit(tissue, **keys, **SHORT)
    file = fit(tissue_file, tmp_path / "out", **keys).run
    assert memory.metrics == file.metrics
    assert memory.adata.obsm["X_isovi"].tobytes() == file.adata.obsm["X_isovi"].tobytes()


def test_a_packed_store_has_the_same_unit_split_genes_and_pairs(tmp_path: Path) -> None:
    """Bug 3. The grid is square, so that neighbours are tied, and its rows are shuffled."""
    adata = simulate("layers", n_obs=144, n_genes=40, n_sections=1, seed=0)
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    adata.obsm["spatial"] = 55.0 * np.random.default_rng(0).permutation(grid)
    adata.write_h5ad(tmp_path / "x.h5ad")
    pack.pack(tmp_path / "x.h5ad", tmp_path / "x.zarr")
    packed, settings = pack.open_packed(tmp_path / "x.zarr"), Settings(holdout=0.3, n_top_genes=15)
    assert packed.obs_names.tolist() != adata.obs_names.tolist()
    order = packed.obs_names.get_indexer(adata.obs_names)
    ours, theirs = split(adata, settings), split(packed, settings)
    assert ours.units == theirs.units
    assert np.array_equal(ours.coordinates, theirs.coordinates[order])
    assert np.array_equal(ours.split, theirs.split[order])
    assert np.array_equal(choose_genes(adata, ours, settings), choose_genes(packed, theirs, settings))
    for kind in (Neighbors(6), Radius(1.5)):
        here, there = (kind.fit(spots.without_positions(spots.split == HELDOUT)) for spots in (ours, theirs))
        assert (here.matrix != there.matrix[order][:, order]).nnz == 0


# ---------------------------------------------------------------------------- two parts, several sections


def test_both_parts_are_kept_beside_the_whole() -> None:
    adata = simulate("layers", n_obs=100, n_genes=30, seed=0)
    run = isovi.fit(adata, distortion=Constraint(n_place=2), holdout=0.25, **SHORT)
    parts = [run.adata.obsm[f"X_isovi_{name}"] for name in ("place", "identity")]
    np.testing.assert_array_equal(np.hstack(parts), run.adata.obsm["X_isovi"])
    np.testing.assert_array_equal(run.latent("place"), parts[0])
    again = isovi.fit(run.adata, distortion=Constraint(n_place=0), **SHORT)
    assert not {"X_isovi_place", "X_isovi_identity"} & set(again.adata.obsm)  # of the earlier fit
    np.testing.assert_array_equal(again.latent("identity"), again.adata.obsm["X_isovi"])


def test_metrics_of_distances_are_those_of_the_place_part() -> None:
    adata = simulate("layers", n_obs=100, n_genes=30, seed=0)
    run = isovi.fit(adata, distortion=Constraint(n_place=2), holdout=0.25, **SHORT)
    place, whole = (
        isovi.tl.evaluate_geometry(run.latent(part), run.spots, seed=0)["heldout"]
        for part in ("place", "whole")
    )
    for name in ("relative_distortion", "distortion_constant", "spearman_distance", "anisotropy"):
        assert run.metrics["heldout"][name] == pytest.approx(place[name])
    for name in ("coordinate_error", "morans_i", "gearys_c"):
        assert run.metrics["heldout"][name] == pytest.approx(whole[name])


def test_how_sections_mix_is_measured_and_domains_of_one_section_are_named() -> None:
    """Two sections that share no gene can but have domains of their own."""
    adata = simulate("layers", n_obs=200, n_genes=30, n_sections=2, seed=0)
    counts = adata.X.toarray() + 1
    first = (adata.obs["section"] == adata.obs["section"].iloc[0]).to_numpy()
    counts[np.ix_(first, np.arange(30) < 15)] = 0
    counts[np.ix_(~first, np.arange(30) >= 15)] = 0
    adata.X = sparse.csr_matrix(counts * 20)
    with pytest.warns(
        IsoviWarning, match=r'domains have 95% of their spots or more in one value of obs\["section"\]'
    ):
        run = isovi.fit(adata, section_key="section", **{**SHORT, "max_epochs": 30})
    found = run.metrics["mixing"]["section"]
    assert found["same_group"] > 0.95 > found["same_group_mixed"]
    assert found["ilisi"] < 0.1


def test_one_section_has_nothing_to_mix() -> None:
    run = isovi.fit(simulate("layers", n_obs=100, n_genes=30, seed=0), **SHORT)
    assert run.metrics["mixing"] == {}


# ---------------------------------------------------------------------------- what is there already


def test_what_the_result_replaces_is_said_and_noted(tissue: AnnData) -> None:
    tissue.obs["isovi_domain"], tissue.obsm["X_isovi"] = "mine", np.ones((tissue.n_obs, 2))
    words = 'The data already has obs["isovi_domain"], obsm["X_isovi"], which the result replaces.'
    with pytest.warns(IsoviWarning, match=re.escape(words)) as said:
        run = isovi.fit(tissue, holdout=0.25, max_epochs=1, n_latent=4, progress=False)
    assert [str(one.message) for one in said if "already has" in str(one.message)] == [words]
    assert words in run.provenance.notes
    assert "mine" not in set(run.adata.obs["isovi_domain"])
    assert set(tissue.obs["isovi_domain"]) == {"mine"} and (tissue.obsm["X_isovi"] == 1).all()


def test_domains_of_something_else_are_not_those_of_a_run_whose_own_failed(
    tissue: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(pipeline, "find_domains", fail)
    tissue.obs["isovi_domain"] = "mine"
    with pytest.warns(IsoviWarning, match="Domains could not be computed"):
        run = isovi.fit(tissue, holdout=0.25, max_epochs=1, n_latent=4, progress=False)
    assert "isovi_domain" not in run.adata.obs


@pytest.mark.parametrize("name", ["section_key", "batch_key", "label_key"])
def test_a_column_that_is_read_is_not_replaced(tissue: AnnData, name: str) -> None:
    """Labels would be compared with themselves."""
    tissue.obs["isovi_domain"] = np.repeat(["a", "b"], tissue.n_obs // 2)
    with pytest.raises(InputError, match=f'{name}="isovi_domain" was given'):
        isovi.fit(tissue, progress=False, **{name: "isovi_domain"})


def test_the_agreement_with_labels_is_reported(fitted: Run) -> None:
    said: list[str] = []

    class Recorded(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    run = replace(fitted, metrics={**fitted.metrics, "ari": 0.5, "nmi": 0.625})
    run.adata = fitted.adata
    report_metrics(run, Recorded())
    assert said[0].endswith(" domains (agreement with the labels, all spots: ARI 0.500, NMI 0.625)")


@pytest.mark.slow
def test_a_first_fit_in_python_shows_no_warning() -> None:
    """In a process of its own, because some warnings are shown once in a process."""
    words = [sys.executable, "-W", "error", "-W", THEIRS, "-c", FIRST_FIT]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
