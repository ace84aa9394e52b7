from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isovi.tl.metrics import lognorm
from isovi_bench.methods.components import principal_components
from isovi_bench.task import Task, find


def test_the_components_are_those_of_the_dense_matrix_of_training_spots(
    task: Task, train_rows: np.ndarray
) -> None:
    found = principal_components(task, 5)
    total = float(np.median(np.asarray(task.spots.X.sum(axis=1)).ravel()[train_rows]))
    dense = lognorm(task.spots.X, target_sum=total)
    mean = dense[train_rows].mean(axis=0)
    axes = np.linalg.svd(dense[train_rows] - mean)[2][:5]
    expected = (dense - mean) @ axes.T
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)


def test_held_out_spots_have_no_say(make_task: Callable[..., Task]) -> None:
    task, other = make_task(), make_task()
    unseen = np.setdiff1d(np.arange(120), task.rows)
    other.spots.X[unseen] = other.spots.X[unseen] * 7
    first, second = (find("pca").fit(one).latent for one in (task, other))
    assert np.array_equal(first[task.rows], second[task.rows])


def test_there_are_no_more_components_than_there_can_be(task: Task) -> None:
    assert find("pca").fit(task, n_latent=100).latent.shape == (120, 29)
