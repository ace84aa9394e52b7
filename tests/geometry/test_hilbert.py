from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isovi.geometry.hilbert import curve_order, hilbert_keys


@pytest.mark.parametrize(("n_axes", "bits"), [(2, 1), (2, 5), (3, 1), (3, 3)])
def test_the_curve_visits_every_lattice_point_in_steps_of_one(n_axes: int, bits: int) -> None:
    lattice = np.stack(np.meshgrid(*[np.arange(2**bits)] * n_axes, indexing="ij"), axis=-1).reshape(
        -1, n_axes
    )
    keys = hilbert_keys(lattice, bits)
    assert sorted(keys.tolist()) == list(range(len(lattice)))
    along = lattice[np.argsort(keys)]
    assert (np.abs(np.diff(along, axis=0)).sum(axis=1) == 1).all()


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    n_axes=st.integers(2, 3),
    seed=st.integers(0, 99),
)
def test_the_order_has_every_cell_once_and_its_section_in_one_piece(
    sizes: list[int], n_axes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    section = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = curve_order(rng.normal(size=(len(section), n_axes)), section)
    assert sorted(order.tolist()) == list(range(len(section)))
    assert (np.diff(section[order]) >= 0).all()


@pytest.mark.parametrize("n_axes", [2, 3])
def test_runs_along_the_curve_are_compact(n_axes: int) -> None:
    """A run of m cells spreads about as a cube of m cells does."""
    coordinates = np.random.default_rng(0).uniform(size=(20_000, n_axes)) * 5.0 - 2.0
    runs = coordinates[curve_order(coordinates, np.zeros(20_000, dtype=int))].reshape(-1, 100, n_axes)
    spread = np.sqrt(runs.var(axis=1).sum(axis=-1)).mean()
    cube = 5.0 * (100 / 20_000) ** (1 / n_axes) * np.sqrt(n_axes / 12)
    assert spread < 1.6 * cube


def test_cells_at_one_place_keep_their_order() -> None:
    assert curve_order(np.zeros((5, 2)), np.zeros(5, dtype=int)).tolist() == [0, 1, 2, 3, 4]
