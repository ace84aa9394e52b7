"""Curves of a report agree with the tools that they stand for."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from isovi.workflow.finished import read

from isovi import tl
from isovi.geometry.certificate import certify_curve
from isovi.geometry.pairs import disjoint_pairs
from isovi.geometry.profile import distortion_profile
from isovi.geometry.tissot import ellipses_of
from isovi.report import curves
from isovi.report.record import Report
from isovi.tl.certificate import Certificate
from isovi.tl.metrics import pair_distances


def test_history_is_that_of_the_training(written: Report, folder: Path) -> None:
    found = written.summary.history
    assert set(found) == {"elbo", "relative_distortion", "multiplier", "distance_scale"}
    table = pd.read_csv(folder / "history.csv", index_col="epoch")
    assert len(table) == 3
    training, validation = found["elbo"]
    assert (training.name, validation.name) == ("training", "validation")
    assert training.x == [1, 2, 3]
    assert np.allclose(np.array(training.y), table["elbo_train"])


def test_a_run_without_history_has_none(tmp_path: Path) -> None:
    assert curves.history(tmp_path) == {}


def test_the_profile_of_held_out_spots_comes_first(written: Report, folder: Path) -> None:
    profile = written.summary.profile
    assert [curve.name for curve in profile.curves] == ["held out", "training"]
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    cells = (adata.obs["isovi_split"] == "heldout").to_numpy()
    measured = tl.distortion_profile(adata, cells=cells, section_key="section")
    told = dict(zip(profile.curves[0].x, profile.curves[0].y, strict=True))
    assert told[0.1] == pytest.approx(measured.for_epsilon(0.1).L)
    assert profile.n_pairs == 60 and profile.confidence == 0.95 and profile.point is not None


def test_the_band_holds_the_true_curve_as_often_as_it_says() -> None:
    rng, failures, repeats = np.random.default_rng(0), 0, 100
    positions = rng.uniform(0, 30, (600, 2))
    section = np.zeros(600, dtype=np.int64)

    def noisy(n: int) -> np.ndarray:
        return np.exp(rng.normal(0, 0.3, n))

    true = [distortion_profile(noisy(200_000), np.ones(200_000)).for_epsilon(e).L for e in curves._EPSILONS]
    source, target = disjoint_pairs(positions, section, (0.0, 60.0), rng)
    apart = pair_distances(positions, source, target)
    for _ in range(repeats):
        curve = certify_curve(apart * noisy(len(apart)), apart, source, target)
        low, high = curves.band(Certificate(curve, None, matched=False))
        above = [end is None or at <= end * 1.001 for at, end in zip(true, high, strict=True)]
        below = [end is not None and at >= end / 1.001 for at, end in zip(true, low, strict=True)]
        failures += not (all(above) and all(below))
    assert failures <= 0.05 * repeats


def test_pairs_of_an_isometry_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    tissue = rng.uniform(0, 10, 20_000)
    found = curves._density("held out", tissue, tissue, 10.0)
    assert found.counts.sum() == np.trace(found.counts) == 20_000
    width = 10.0 / curves._MEDIANS
    assert np.abs(found.median - found.middle).max() < 0.1 * width
    assert (found.low < found.median).all() and (found.median < found.high).all()


def test_sections_that_training_never_saw_have_the_mean_scale(folder: Path) -> None:
    run = read(folder)
    first, second = run.adata.obs["section"].cat.categories
    scale = curves._spot_scale(run, {str(first): 2.0})
    assert (scale == 2.0).all()
    scale = curves._spot_scale(run, {str(first): 2.0, str(second): 4.0})
    assert set(scale[(run.adata.obs["section"] == second).to_numpy()]) == {4.0}


def test_ellipses_are_the_local_maps_up_to_one_factor() -> None:
    centres = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    jacobian = np.tile(np.diag([3.0, 1.5]), (100, 1, 1))
    half_axes, angle = ellipses_of(jacobian).in_tissue()
    fitted = curves._fitted(half_axes, centres)
    assert np.allclose(fitted[:, 0] / fitted[:, 1], 2.0)
    assert 0.2 < fitted[0, 0] < 1.0  # neighbours are one apart
    assert np.allclose(np.sin(angle), 0, atol=1e-9)


def test_ellipses_are_shown_in_both_views(written: Report) -> None:
    tissue, latent = written.ellipses
    assert (tissue.name, latent.name) == ("tissue", "latent")
    assert len(latent.centres) == min(curves._N_ELLIPSES["latent"], written.summary.n_obs)
    for one in written.ellipses:
        assert (one.half_axes[:, 0] >= one.half_axes[:, 1]).all()
        assert (one.anisotropy >= 1).all()
