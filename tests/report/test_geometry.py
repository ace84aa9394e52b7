"""What a report shows of distances agrees with the tools that measure it."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from isovi import tl
from isovi.geometry.certificate import certify_curve
from isovi.geometry.pairs import disjoint_pairs
from isovi.geometry.profile import distortion_profile
from isovi.pl import _data
from isovi.report import geometry
from isovi.report.summarise import Report
from isovi.tl.certificate import Certificate
from isovi.tl.metrics import pair_distances


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

    exact = distortion_profile(noisy(200_000), np.ones(200_000))
    true = np.array([exact.for_epsilon(e).L for e in _data.EPSILONS])
    source, target = disjoint_pairs(positions, section, (0.0, 60.0), rng)
    apart = pair_distances(positions, source, target)
    for _ in range(repeats):
        curve = certify_curve(apart * noisy(len(apart)), apart, source, target)
        low, high = (one.y for one in geometry.band(Certificate(curve, None, matched=False)))
        above = np.isnan(high) | (true <= high * 1.001)
        below = true >= low / 1.001
        failures += not (above.all() and below.all())
    assert failures <= 0.05 * repeats


def test_ellipses_are_shown_in_both_views(written: Report) -> None:
    tissue, latent = written.ellipses
    assert (tissue.name, latent.name) == ("tissue", "latent")
    assert len(latent.centres) == _data.N_ELLIPSES["latent"]
    for one in written.ellipses:
        assert (one.half_axes[:, 0] >= one.half_axes[:, 1]).all()
        assert (one.anisotropy >= 1).all()
