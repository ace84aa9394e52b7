from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from isovi.workflow.prepare import MIN_SPOTS, holdout_of, select_genes, split_spots
from scipy import sparse

from isovi.errors import InputError


def split(n_obs: int, holdout: float | np.ndarray, seed: int = 0) -> np.ndarray:
    return split_spots(n_obs, holdout, rng=np.random.default_rng(seed))


# ---------------------------------------------------------------------------- the split


@pytest.mark.parametrize("holdout", [0.0, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("n_obs", [40, 101])
def test_every_spot_has_one_part_and_the_parts_have_their_shares(n_obs: int, holdout: float) -> None:
    parts = split(n_obs, holdout)
    n_heldout = round(holdout * n_obs)
    n_validation = round(0.1 * (n_obs - n_heldout))
    counted = {part: int((parts == part).sum()) for part in ("train", "validation", "heldout")}
    assert counted == {
        "train": n_obs - n_heldout - n_validation,
        "validation": n_validation,
        "heldout": n_heldout,
    }


def test_a_mask_holds_out_just_its_spots() -> None:
    mask = np.arange(60) % 3 == 0
    parts = split(60, mask)
    np.testing.assert_array_equal(parts == "heldout", mask)
    assert (parts == "validation").sum() == 4


def test_the_seed_decides_the_split() -> None:
    np.testing.assert_array_equal(split(100, 0.25, seed=3), split(100, 0.25, seed=3))
    assert (split(100, 0.25, seed=3) != split(100, 0.25, seed=4)).any()


def test_spots_are_held_out_alike_wherever_they_stand_in_the_file() -> None:
    held_out = np.mean([split(50, 0.2, seed) == "heldout" for seed in range(400)], axis=0)
    # 400 draws of probability 0.2: standard error 0.02
    assert np.abs(held_out - 0.2).max() < 0.1


# ---------------------------------------------------------------------------- what to hold out


@pytest.mark.parametrize("text", ["0", "0.25", "0.9", "1e-1"])
def test_a_share_is_read(tissue: AnnData, text: str) -> None:
    assert holdout_of(tissue, text, None) == float(text)


@pytest.mark.parametrize("text", ["", "half", "-0.1", "0.95", "1", "nan", "inf", "section:", "batch:a"])
def test_other_text_is_refused(tissue: AnnData, text: str) -> None:
    with pytest.raises(InputError, match=r"between 0 and 0\.9, or section:NAME") as raised:
        holdout_of(tissue, text, "section")
    assert f"--holdout {text} " in str(raised.value)


def test_a_section_is_held_out_by_name(tissue: AnnData) -> None:
    mask = holdout_of(tissue, "section:section_1", "section")
    np.testing.assert_array_equal(mask, tissue.obs["section"] == "section_1")


def test_sections_named_by_numbers_are_found(tissue: AnnData) -> None:
    tissue.obs["slide"] = np.where(tissue.obs["section"] == "section_1", 151673, 151674)
    mask = holdout_of(tissue, "section:151673", "slide")
    np.testing.assert_array_equal(mask, tissue.obs["section"] == "section_1")


def test_an_unknown_section_is_refused_with_those_that_exist(tissue: AnnData) -> None:
    with pytest.raises(InputError, match=r"section_0.*section_1"):
        holdout_of(tissue, "section:section_9", "section")


def test_a_section_needs_to_be_told_by_its_key(tissue: AnnData) -> None:
    with pytest.raises(InputError, match="--section-key is missing"):
        holdout_of(tissue, "section:section_1", None)


def test_not_every_spot_can_be_held_out(tissue: AnnData) -> None:
    alone = tissue[tissue.obs["section"] == "section_1"].copy()
    with pytest.raises(InputError, match="holds out every spot"):
        holdout_of(alone, "section:section_1", "section")


# ---------------------------------------------------------------------------- genes


@pytest.fixture
def train(tissue: AnnData) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=tissue.n_obs) < 0.6


@pytest.mark.parametrize("n_top_genes", [0, 10])
def test_counts_of_other_spots_have_no_say(tissue: AnnData, train: np.ndarray, n_top_genes: int) -> None:
    before = select_genes(tissue, train, n_top_genes=n_top_genes)
    counts = tissue.X.toarray()
    counts[~train] = np.random.default_rng(1).poisson(50, counts[~train].shape)
    tissue.X = sparse.csr_matrix(counts)
    np.testing.assert_array_equal(select_genes(tissue, train, n_top_genes=n_top_genes), before)


def test_counts_of_training_spots_have_a_say(tissue: AnnData, train: np.ndarray) -> None:
    before = select_genes(tissue, train, n_top_genes=10)
    counts = tissue.X.toarray()
    gene = int(np.flatnonzero(~before)[-1])
    counts[train, gene] = np.where(np.arange(train.sum()) % 10, 0, 100)
    tissue.X = sparse.csr_matrix(counts)
    assert select_genes(tissue, train, n_top_genes=10)[gene]


@pytest.mark.parametrize(("n_spots", "kept"), [(MIN_SPOTS - 1, False), (MIN_SPOTS, True)])
def test_a_gene_must_be_seen_in_five_training_spots(
    tissue: AnnData, train: np.ndarray, n_spots: int, kept: bool
) -> None:
    counts = tissue.X.toarray()
    counts[:, 3] = 0
    counts[np.flatnonzero(train)[:n_spots], 3] = 7
    counts[~train, 3] = 7
    tissue.X = sparse.csr_matrix(counts)
    assert select_genes(tissue, train, n_top_genes=0)[3] == kept


@pytest.mark.parametrize("n_top_genes", [0, -1, 1000])
def test_without_a_limit_all_seen_genes_are_kept(
    tissue: AnnData, train: np.ndarray, n_top_genes: int
) -> None:
    seen = (tissue.X.toarray()[train] > 0).sum(axis=0) >= MIN_SPOTS
    assert not seen.all()
    np.testing.assert_array_equal(select_genes(tissue, train, n_top_genes=n_top_genes), seen)


def test_the_wanted_number_is_kept_and_they_vary_most(tissue: AnnData, train: np.ndarray) -> None:
    kept = select_genes(tissue, train, n_top_genes=10)
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
    expected = select_genes(tissue, train, n_top_genes=10)
    tissue.layers["dense"] = tissue.X.toarray()
    tissue.X = sparse.csr_matrix(tissue.shape)
    for layer in ("counts", "dense"):
        np.testing.assert_array_equal(select_genes(tissue, train, n_top_genes=10, layer=layer), expected)


def test_training_spots_without_counts_do_no_harm(tissue: AnnData, train: np.ndarray) -> None:
    counts = tissue.X.toarray()
    counts[np.flatnonzero(train)[:2]] = 0
    tissue.X = sparse.csr_matrix(counts)
    assert select_genes(tissue, train, n_top_genes=10).sum() == 10


def test_data_without_usable_genes_are_refused(tissue: AnnData) -> None:
    few = np.arange(tissue.n_obs) < MIN_SPOTS - 1
    with pytest.raises(InputError, match="No gene is seen in 5 of the 4 training spots"):
        select_genes(tissue, few, n_top_genes=10)
