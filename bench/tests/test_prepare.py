from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from isovi.data import check
from isovi.errors import InputError
from isovi.simulate import simulate
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN
from isovi_bench.datasets import DataSet
from isovi_bench.job import Job
from isovi_bench.prepare import prepare, shuffled_within, thin

N_OBS, N_GENES = 120, 30


def tissue() -> AnnData:
    adata = simulate("layers", N_OBS, N_GENES, n_sections=2, seed=0)
    adata.obs["donor"] = np.where(np.arange(N_OBS) % 3, "p", "q")
    adata.obs["label"] = np.where(np.arange(N_OBS) % 5, adata.obs["domain"].astype(str), "undetermined")
    return adata


def job(tmp_path: Path, adata: AnnData, split: str = "0.25", *, shuffled: bool = False, seed: int = 0) -> Job:
    file = tmp_path / "tissue.h5ad"
    adata.write_h5ad(file)
    dataset = DataSet(name="t", path=str(file), label_key="label", section_key="section", donor_key="donor")
    return Job(dataset, "d", N_OBS, "m", "m", "{}", seed, split, shuffled, n_top_genes=20)


def same(one: AnnData, other: AnnData) -> bool:
    return (
        (one.X != other.X).nnz == 0
        and one.obs.equals(other.obs)
        and list(one.var_names) == list(other.var_names)
        and all(np.array_equal(one.obsm[key], other.obsm[key]) for key in one.obsm)
        and set(one.obsm) == set(other.obsm)
    )


@pytest.mark.parametrize("split", ["0.25", "section:section_1", "donor:q"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_held_out_positions_never_reach_a_method(tmp_path: Path, split: str, shuffled: bool) -> None:
    adata = tissue()
    before = prepare(job(tmp_path, adata, split, shuffled=shuffled))
    heldout = before.placement.split == HELDOUT
    assert heldout.any()
    adata.obsm["spatial"][heldout] = np.random.default_rng(1).normal(size=(heldout.sum(), 2)) * 1e4
    after = prepare(job(tmp_path, adata, split, shuffled=shuffled))
    assert same(before.task.seen, after.task.seen) and same(before.task.spots, after.task.spots)
    assert not np.allclose(before.placement.coordinates, after.placement.coordinates)
    assert list(before.task.spots.obsm) == [] and list(before.task.spots.obs) == ["section"]


def test_genes_are_chosen_on_training_spots(tmp_path: Path) -> None:
    adata = tissue()
    before = prepare(job(tmp_path, adata))
    counts = adata.X.toarray()
    counts[before.placement.split != TRAIN] = 1 + np.arange(N_GENES)[::-1]
    adata.X = type(adata.X)(counts)
    after = prepare(job(tmp_path, adata))
    assert before.task.seen.n_vars == 20
    assert list(before.task.seen.var_names) == list(after.task.seen.var_names)


@pytest.mark.parametrize(
    ("split", "column", "name"), [("section:section_1", "section", "section_1"), ("donor:q", "donor", "q")]
)
def test_a_whole_section_or_donor_is_held_out(tmp_path: Path, split: str, column: str, name: str) -> None:
    adata = tissue()
    placement = prepare(job(tmp_path, adata, split)).placement
    np.testing.assert_array_equal(placement.split == HELDOUT, adata.obs[column].to_numpy() == name)


def test_all_holds_nothing_out(tmp_path: Path) -> None:
    prepared = prepare(job(tmp_path, tissue(), "all"))
    assert set(prepared.placement.split) == {"train", "validation"}
    np.testing.assert_array_equal(prepared.task.rows, np.arange(N_OBS))


def test_seen_spots_are_the_rows_of_all_spots(tmp_path: Path) -> None:
    adata = tissue()
    prepared = prepare(job(tmp_path, adata))
    task, split = prepared.task, prepared.placement.split
    assert task.spots.n_obs == N_OBS and task.n_domains == len(set(adata.obs["label"])) - 1
    assert (task.spots.X[task.rows] != task.seen.X).nnz == 0
    np.testing.assert_array_equal(task.seen.obs[SPLIT_KEY].to_numpy(), split[task.rows])
    np.testing.assert_array_equal(task.rows, np.flatnonzero(split != HELDOUT))
    np.testing.assert_array_equal(prepared.labels, adata.obs["label"].to_numpy())
    # true positions up to one shift and scale per section
    for name, group in task.seen.obs.groupby("section", observed=True):
        of = task.seen.obs_names.get_indexer(group.index)
        given, true = task.seen.obsm["spatial"][of], adata[group.index].obsm["spatial"]
        ratio = np.ptp(true, axis=0) / np.ptp(given, axis=0)
        assert ratio[0] == pytest.approx(ratio[1], rel=1e-4), name


def test_the_control_deals_seen_positions_anew_within_sections_and_nothing_else(tmp_path: Path) -> None:
    adata = tissue()
    plain, control = (prepare(job(tmp_path, adata, shuffled=shuffled)) for shuffled in (False, True))
    np.testing.assert_array_equal(plain.placement.coordinates, control.placement.coordinates)
    assert same(plain.task.spots, control.task.spots)
    assert (plain.task.seen.X != control.task.seen.X).nnz == 0
    section = plain.task.seen.obs["section"].to_numpy()
    was, now = plain.task.seen.obsm["spatial"], control.task.seen.obsm["spatial"]
    assert (was != now).any(axis=1).mean() > 0.9
    for name in np.unique(section):
        of = section == name
        np.testing.assert_array_equal(*(rows[np.lexsort(rows.T)] for rows in (was[of], now[of])))


def test_an_order_depends_on_the_seed_alone() -> None:
    codes = np.repeat([0, 1], 30)
    np.testing.assert_array_equal(shuffled_within(codes, 1), shuffled_within(codes, 1))
    assert (shuffled_within(codes, 1) != shuffled_within(codes, 2)).any()


def test_seeds_split_differently(tmp_path: Path) -> None:
    first, second = (prepare(job(tmp_path, tissue(), seed=seed)) for seed in (0, 1))
    assert (first.placement.split != second.placement.split).any()


def test_too_few_training_spots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="8 of 90 spots are left for training"):
        prepare(job(tmp_path, tissue()[:90].copy(), "0.9"))


@pytest.mark.parametrize("split", ["all", "section:section_1", "molecules:0.1"])
def test_spots_without_counts_are_left_out(tmp_path: Path, split: str) -> None:
    adata = tissue()
    empty = int(np.flatnonzero(adata.obs["section"] == "section_1")[0])
    counts = adata.X.toarray()
    counts[empty], counts[:, 1] = 0, 0
    counts[empty, 1] = 100  # a gene of this spot alone is not chosen
    adata.X = type(adata.X)(counts)
    prepared = prepare(job(tmp_path, adata, split))
    task, others = prepared.task, np.delete(np.arange(N_OBS), empty)
    assert prepared.left_out == 1
    assert list(task.spots.obs_names) == list(adata.obs_names[others])
    everywhere = check.spots(adata, section_key="section").coordinates
    np.testing.assert_array_equal(prepared.placement.coordinates, everywhere[others])
    assert list(prepared.labels) == list(adata.obs["label"].iloc[others])
    assert list(task.seen.obs_names) == list(task.spots.obs_names[task.rows])
    if prepared.molecules is not None:
        assert prepared.molecules.shape == task.spots.shape


def test_no_spot_is_left_out_that_has_a_count(tmp_path: Path) -> None:
    assert prepare(job(tmp_path, tissue())).left_out == 0


def test_molecules_held_out_and_seen_are_all_that_there_are(tmp_path: Path) -> None:
    adata = tissue()
    whole = prepare(job(tmp_path, adata, "all")).task.spots
    given = job(tmp_path, adata, "molecules:0.3")
    prepared, again = prepare(given), prepare(given)
    counts = AnnData(adata.X, var=adata.var)[:, prepared.task.spots.var_names].X
    assert prepared.molecules is not None
    assert (prepared.task.spots.X + prepared.molecules != counts).nnz == 0
    share = prepared.molecules.sum() / counts.sum()
    assert abs(share - 0.3) < 0.02 and prepared.heldout_share == 0.3
    assert (prepared.molecules.data > 0).all() and (prepared.task.spots.X.data > 0).all()
    assert (prepared.molecules != again.molecules).nnz == 0
    assert len(prepared.task.rows) == N_OBS == whole.n_obs


def test_a_layer_of_counts_is_thinned_in_its_place() -> None:
    adata = tissue()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X * 0
    taken = thin(adata, "counts", 0.5, seed=0)
    assert adata.X.sum() == 0 and taken.sum() > 0
    assert adata.layers["counts"].sum() + taken.sum() == tissue().X.sum()
