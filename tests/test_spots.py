from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from isovi import AllPairs, Delaunay, Gaussian, Neighbors, Radius
from isovi.graph import PairKind, Stored
from isovi.spots import HELDOUT, TRAIN, Spots, spacing


@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(1e-3, 1e4), n_axes=st.sampled_from([2, 3]))
def test_coordinates_are_a_similarity_within_each_section(seed: int, factor: float, n_axes: int) -> None:
    rng = np.random.default_rng(seed)
    raw, codes = factor * rng.normal(size=(30, n_axes)) + 50 * factor, np.arange(30) % 2
    spots = Spots.at(raw, codes, ["a", "b"])
    for code, name in enumerate("ab"):
        found = spots.coordinates[codes == code]
        np.testing.assert_allclose(pdist(found) * spots.units[name], pdist(raw[codes == code]), rtol=1e-9)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
        assert spacing(found) == pytest.approx(1, rel=1e-9)
    np.testing.assert_allclose(spots.positions, raw, rtol=1e-9)


def test_positions_far_from_the_origin_keep_their_digits() -> None:
    raw = np.random.default_rng(0).uniform(0, 10, (20, 2))
    near, far = (Spots.at(raw + shift).coordinates for shift in (0, 1e8))
    np.testing.assert_allclose(near, far, atol=1e-5)


def test_spacing_is_the_median_distance_to_the_nearest_other_place() -> None:
    line = np.array([[0.0, 0], [2, 0], [5, 0], [5, 0], [9, 0]])
    assert spacing(line) == np.median([2, 2, 3, 4])
    assert np.isnan(spacing(np.ones((3, 2))))


@given(seed=st.integers(0, 2**32 - 1))
def test_neither_unit_nor_coordinates_depend_on_the_order_of_the_spots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw, codes, order = rng.normal(size=(40, 2)) * 1e3, rng.integers(0, 2, 40), rng.permutation(40)
    spots, other = Spots.at(raw, codes, "ab"), Spots.at(raw[order], codes[order], "ab")
    assert np.array_equal(spots.unit, other.unit)
    assert np.array_equal(spots.coordinates[order], other.coordinates)


def test_what_is_held_out_or_taken_changes_no_unit() -> None:
    rng = np.random.default_rng(0)
    raw = rng.uniform(0, 20, (200, 2))
    split = np.where(rng.random(200) < 0.5, HELDOUT, TRAIN)
    spots = Spots.at(raw, split=split)
    train = spots.take(spots.rows(TRAIN))
    assert spacing(raw[split == TRAIN]) > 1.2 * spots.unit[0], "the training spots alone lie further apart"
    assert np.array_equal(train.unit, spots.unit)
    assert np.array_equal(train.coordinates, Spots.at(raw).coordinates[split == TRAIN])
    assert np.array_equal(train.row, np.flatnonzero(split == TRAIN))


def test_the_known_unit_of_a_section_without_positions_is_kept_and_an_unknown_one_is_measured() -> None:
    nowhere, somewhere = np.full((5, 2), np.nan), np.column_stack([np.arange(5.0), np.zeros(5)])
    assert Spots.at(nowhere, sections=["a"], units={"a": 3.0}).unit.tolist() == [3.0]
    assert Spots.at(somewhere, sections=["a"], units={"a": np.nan}).unit.tolist() == [1.0]


def test_known_units_are_kept_and_spots_without_position_are_nan() -> None:
    raw = np.random.default_rng(0).normal(size=(20, 2))
    raw[3] = np.nan
    spots = Spots.at(raw, np.arange(20) % 2, ["a", "b"], units={"b": 7.0})
    assert spots.units["b"] == 7.0
    assert np.array_equal(spots.placed, np.arange(20) != 3)
    assert spots.units["a"] == spacing(raw[::2])


@pytest.mark.parametrize("kind", [Neighbors(6), Radius(1.5), Gaussian(1.0), Delaunay()], ids=str)
def test_pairs_do_not_depend_on_the_order_of_the_spots(kind: PairKind) -> None:
    """On a square grid several neighbours are equally far: the choice among them is the same in any order."""
    raw = np.stack(np.meshgrid(np.arange(7.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    order = np.random.default_rng(0).permutation(len(raw))
    weights, other = (kind.fit(Spots.at(points)) for points in (raw, raw[order]))
    assert isinstance(weights, Stored) and isinstance(other, Stored)
    assert weights.matrix.nnz > 0
    assert (weights.matrix[order][:, order] != other.matrix).nnz == 0


def test_held_out_positions_are_not_looked_at_by_pairs() -> None:
    rng = np.random.default_rng(0)
    raw, heldout = rng.uniform(0, 8, (60, 2)), np.arange(0, 60, 3)
    moved = Spots.at(raw).coordinates.copy()
    moved[heldout] = rng.uniform(0, 8, (len(heldout), 2))
    weights, other = (
        Neighbors(4).fit(Spots(c).without_positions(heldout)) for c in (Spots.at(raw).coordinates, moved)
    )
    assert (weights.matrix != other.matrix).nnz == 0
    assert not weights.matrix[heldout].nnz


def test_subsets_are_those_that_have_spots() -> None:
    spots = Spots(np.zeros((3, 2)), split=np.array([TRAIN, "validation", TRAIN]))
    assert {name: rows.tolist() for name, rows in spots.subsets().items()} == {
        "train": [0, 2],
        "all": [0, 1, 2],
    }
    assert AllPairs().fit(spots).codes.tolist() == [0, 0, 0]
