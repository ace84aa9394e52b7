from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from scipy.spatial.distance import pdist

from isovi.geometry.distortion import profile_scale, relative_distortion
from isovi.tl.metrics import lognorm
from isovi_bench.task import Task, find


def distortion(latent: np.ndarray, inputs: np.ndarray) -> float:
    """Relative distortion over all pairs, at the best scale."""
    in_latent, in_input = (torch.as_tensor(pdist(np.asarray(of, float))) for of in (latent, inputs))
    weight = torch.ones_like(in_input)
    scale = profile_scale(in_latent, in_input, weight)
    return float(relative_distortion(in_latent, in_input, weight, scale))


def total(model: Any, adata: AnnData) -> dict[str, float]:
    """What the module reports of all spots as one minibatch, without dropout."""
    loader = model._make_data_loader(model._validate_anndata(adata), batch_size=adata.n_obs)
    (tensors,) = loader
    model.module.eval()
    with torch.no_grad():
        model.module(tensors)
    return model.module.objective.noted(training=False)


@pytest.fixture(scope="module")
def planar() -> AnnData:
    """Spots whose log-normalised expression is, up to its noise, an isometric image of a plane."""
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, size=(160, 2))
    axes = np.linalg.qr(rng.normal(size=(40, 3)))[0]
    axes -= axes.mean(axis=0)  # moves no library size, to first order
    log_mean = 5.5 + 3.0 * plane @ axes[:, :2].T
    adata = AnnData(sparse.csr_matrix(rng.poisson(np.exp(log_mean)).astype(np.float32)))
    adata.obsm["spatial"] = 100.0 * rng.uniform(size=(160, 2))
    adata.obs["section"] = "all"
    return adata


@pytest.fixture(scope="module")
def planar_task(planar: AnnData, make_task: Callable[..., Task]) -> Task:
    return make_task(adata=planar, max_epochs=40)


def test_its_distances_are_those_of_log_normalised_expression(planar_task: Task) -> None:
    model = find("isometry").fit(replace(planar_task, max_epochs=1), n_latent=2, penalty=1.0).model
    told = total(model, planar_task.spots.copy())
    latent = model.get_latent_representation(planar_task.spots.copy())
    assert told["relative_distortion"] == pytest.approx(
        distortion(latent, lognorm(planar_task.spots.X)), rel=1e-3
    )


def test_a_latent_becomes_isometric_to_inputs_that_can_be_flattened(planar_task: Task) -> None:
    inputs = lognorm(planar_task.spots.X)
    settings = {"n_latent": 2, "n_layers": 1, "dropout_rate": 0.0}
    plain = distortion(find("vae").fit(planar_task, **settings).latent, inputs)
    found = find("isometry").fit(planar_task, penalty=1000.0, **settings)
    assert distortion(found.latent, inputs) < 0.5 * plain
    unseen = np.setdiff1d(np.arange(160), planar_task.rows)
    assert distortion(found.latent[unseen], inputs[unseen]) < 0.5 * plain
    history = found.model.history_["relative_distortion_train"].to_numpy(float).ravel()
    assert history[-10:].mean() < 0.5 * history[:2].mean()
