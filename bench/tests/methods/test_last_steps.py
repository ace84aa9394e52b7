"""Last steps of methods: domains, positions and expression, by what each comes with."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from isovi import tl
from isovi_bench.grid import make_known
from isovi_bench.task import Fitted, Task, find

make_known(())


@pytest.fixture(scope="module")
def ours(make_task) -> tuple[Task, Fitted]:
    """IsoSCVI fitted for a few epochs."""
    task = make_task(max_epochs=3)
    return task, find("isoscvi").fit(task)


def test_isovi_comes_with_domains_positions_and_expression(ours) -> None:
    task, fitted = ours
    others = np.setdiff1d(np.arange(task.spots.n_obs), task.rows)
    domains, positions, shares = fitted.domains(), fitted.positions(), fitted.expression()
    assert len(domains) == len(task.rows) and 2 <= len(set(domains)) <= task.n_domains
    assert np.isnan(positions[task.rows]).all() and np.isfinite(positions[others]).all()
    seen = task.seen.obsm["spatial"]
    assert (positions[others] >= seen.min(axis=0) - 1e-6).all()  # the mean of neighbours leaves no hull
    assert (positions[others] <= seen.max(axis=0) + 1e-6).all()
    assert shares.shape == task.spots.shape and (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-3)


def test_isovi_finds_domains_where_its_own_function_does(ours) -> None:
    """In the whole latent representation, since the tissue has few genes."""
    task, fitted = ours
    adata = task.seen.copy()
    adata.obsm["whole"] = fitted.latent[task.rows]
    tl.domains(adata, use_rep="whole", section_key="section", n_domains=task.n_domains, seed=task.seed)
    assert adjusted_rand_score(adata.obs["isovi_domain"], fitted.domains()) == 1


def test_cells_that_are_like_one_that_was_trained_on_do_not_calibrate(tissue, make_task) -> None:
    made, alike = make_task(), tissue.copy()
    split = made.seen.obs["isovi_split"].to_numpy()
    trained, stopping = (made.rows[split == part][:2] for part in ("train", "validation"))
    counts = alike.X.tolil()
    counts[stopping] = counts[trained]
    alike.X = counts.tocsr()
    task = make_task(alike)
    positions = find("isoscvi").fit(task).positions()
    assert np.isfinite(positions[np.setdiff1d(np.arange(task.spots.n_obs), task.rows)]).all()


def test_scvi_as_it_is_shipped_has_no_domains_of_its_own_and_takes_sections_as_batches(make_task) -> None:
    task = make_task(max_epochs=2)
    fitted = find("scvi-default").fit(task, batch=True)
    assert fitted.domains == "leiden" and fitted.positions is None and fitted.expression is not None
    assert fitted.model.summary_stats["n_batch"] == 2
    assert find("scvi-default").fit(task).model.summary_stats["n_batch"] == 1


def test_isovi_takes_sections_as_batches(make_task) -> None:
    fitted = find("isoscvi").fit(make_task(max_epochs=2), batch=True)
    assert fitted.model.summary_stats["n_batch"] == 2


def test_components_give_back_the_expression_that_they_were_made_of(task: Task) -> None:
    shares = find("pca").fit(task, n_latent=29).expression()
    counts = task.spots.X.toarray()
    shares = np.maximum(shares, 0) / np.maximum(shares, 0).sum(axis=1, keepdims=True)
    truth = counts / counts.sum(axis=1, keepdims=True)
    means = truth[task.rows].mean(axis=0)
    assert np.abs(shares - truth).mean() < 0.5 * np.abs(means - truth).mean()


def test_the_baselines_know_only_coordinates_or_the_mean(task: Task) -> None:
    at = find("coordinates")
    fitted = at.fit(task)
    assert at.sees_positions and not at.encodes
    np.testing.assert_array_equal(fitted.latent[task.rows], task.seen.obsm["spatial"])
    tiles = tl.coordinate_domains(task.seen.obsm["spatial"], task.n_domains, task.seed)
    np.testing.assert_array_equal(fitted.domains(), tiles)
    mean = find("mean-profile").fit(task)
    profile = mean.expression()
    assert mean.latent is None and (profile == profile[0]).all()
    np.testing.assert_allclose(profile[0], np.asarray(task.seen.X.sum(axis=0)).ravel())
