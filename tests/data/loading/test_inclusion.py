from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from isovi.data.loading.inclusion import InclusionProbability

PATCH = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4])
CELLS = np.array([10, 3, 7, 0, 5, 9, 2, 11, 4])  # spots 1, 6 and 8 belong to another split


def recorded(sizes: tuple[int, ...]) -> InclusionProbability:
    dealt = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    inclusion = InclusionProbability(12)
    inclusion.record(CELLS, PATCH, dealt)
    return inclusion


def share_of_deals_together(sizes: tuple[int, ...], first: int, second: int) -> float:
    """Over every way to deal the patches: how often two of them come into one minibatch."""
    batch = np.repeat(np.arange(len(sizes)), sizes)
    deals = np.array([np.argsort(deal) for deal in permutations(range(sum(sizes)))])
    return float(np.mean(batch[deals[:, first]] == batch[deals[:, second]]))


@pytest.mark.parametrize("sizes", [(5,), (3, 2), (2, 2, 1), (4, 1)])
def test_the_correction_is_the_inverse_chance_to_meet(sizes: tuple[int, ...]) -> None:
    source, target = torch.triu_indices(len(CELLS), len(CELLS), 1)
    correction, share = recorded(sizes).correction(source, target, torch.as_tensor(CELLS))
    for i, j, factor in zip(source, target, correction, strict=True):
        chance = 1.0 if PATCH[i] == PATCH[j] else share_of_deals_together(sizes, PATCH[i], PATCH[j])
        assert float(factor) == pytest.approx(1 / chance, rel=1e-6)
    assert float(share) == pytest.approx(len(sizes) / len(CELLS) ** 2)


def test_patches_that_never_meet_get_no_weight() -> None:
    correction, _ = recorded((1, 1, 1, 1, 1)).correction(
        torch.tensor([0, 0]), torch.tensor([1, 2]), torch.as_tensor(CELLS)
    )
    assert correction.tolist() == [1.0, 0.0]


def test_splits_are_recorded_side_by_side() -> None:
    inclusion = recorded((3, 2))
    inclusion.record(np.array([1, 6, 8]), np.array([0, 0, 0]), [np.array([0])])
    pair = torch.tensor([0]), torch.tensor([2])
    before = recorded((3, 2)).correction(*pair, torch.as_tensor(CELLS))
    assert torch.equal(inclusion.correction(*pair, torch.as_tensor(CELLS))[0], before[0])
    factor, share = inclusion.correction(*pair, torch.tensor([1, 6, 8]))
    assert factor.tolist() == [1.0] and float(share) == pytest.approx(1 / 9)


def test_it_follows_the_minibatches_to_their_device() -> None:
    inclusion, cells = recorded((3, 2)), torch.as_tensor(CELLS).to("meta")
    factor, share = inclusion.correction(cells[:2], cells[1:3], cells)
    assert factor.is_meta and share.is_meta and factor.shape == (2,)
    inclusion.record(CELLS, PATCH, [np.arange(5)])
    assert all(values.is_meta for values in vars(inclusion).values())
