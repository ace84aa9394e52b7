from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isovi.errors import InputError
from isovi.geometry.profile import ProfilePoint
from isovi.run import Provenance, Run, Settings
from isovi_bench.studies import coverage


def run_of(n: int, noise: float, jumps: float = 0.0) -> Run:
    """A noisy copy of the tissue as a latent, in which some cells lie anywhere; all held out."""
    rng = np.random.default_rng(0)
    places = rng.uniform(0, n**0.5, (n, 2))
    latent = places + noise * rng.normal(size=places.shape)
    moved = rng.random(n) < jumps
    latent[moved] = rng.uniform(0, n**0.5, (int(moved.sum()), 2))
    obs = pd.DataFrame({"isovi_split": ["heldout"] * n}, index=[f"spot{i}" for i in range(n)])
    provenance = Provenance(sha256="")
    run = Run(settings=Settings(), metrics={}, provenance=provenance, history=pd.DataFrame(), training={})
    run.adata = AnnData(obs=obs, obsm={"spatial": places, "X_isovi": latent})
    return run


@pytest.mark.slow
def test_certificates_fail_no_more_often_than_they_say() -> None:
    rows = coverage.measure([run_of(600, 0.5, jumps=0.04)], n_splits=100)
    assert list(rows["statement"]) == ["point", "curve", "approximate"] * 2
    assert list(rows["at most"]) == [9] * 6
    guaranteed = rows[rows["statement"] != "approximate"]
    assert (guaranteed["failures"] <= guaranteed["at most"]).all()
    assert coverage.report(rows).splitlines()[0].startswith("| run | pairs | held out | certify |")


def test_what_is_certified_of_the_place_part_is_judged_by_its_distances() -> None:
    run, asked = run_of(600, 0.5), {"matched": False, "n_splits": 5, "n_cells": 120, "seed": 0}
    alone = coverage.failures(run, np.arange(600), **asked)
    place = np.column_stack([run.adata.obsm["X_isovi"], np.zeros(600)])
    identity = 50 * np.random.default_rng(1).normal(size=(600, 7))
    run.adata.obsm.update({"X_isovi": np.hstack([place, identity]), "X_isovi_place": place})
    assert coverage.failures(run, np.arange(600), **asked) == alone
    assert alone["point"] == alone["curve"] == 0


def test_a_certificate_of_cells_that_were_trained_on_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """What certifies is an isometry, as of memorised cells; what is true of others is not."""
    run, exact = run_of(600, 2.0), run_of(600, 0.0).adata.obsm["X_isovi"]
    certify = coverage.tl.certificate

    def memorised(adata: AnnData, **asked: object) -> object:
        return certify(AnnData(obs=adata.obs, obsm={**adata.obsm, "X_isovi": exact}), **asked)

    monkeypatch.setattr(coverage.tl, "certificate", memorised)
    rows = coverage.measure([run], n_splits=5)
    assert (rows.loc[rows["statement"] == "point", "failures"] == 5).all()


@pytest.mark.parametrize("kind", ["noise", "cells", "types", "lost"])
def test_certificates_of_simulated_populations_are_right(kind: str) -> None:
    (row,) = coverage.simulate(8, kinds=(kind,), n_cells=(120,)).to_dict("records")
    assert row["pairs"] == 60 and row["certified covers"] == 1.0
    assert 1 < row["L(0.1)"] < row["certified"]
    assert row["approximate"] < row["certified"]
    assert 0 <= row["approximate covers"] <= 1


def test_pairs_outside_the_bounds_are_counted() -> None:
    point = ProfilePoint(0.1, L=2.0, scale=3.0)
    tissue = np.ones(4)
    assert coverage.share_outside(point, np.array([2.9, 3.0, 6.0, 6.1]), tissue) == 0.5
    assert coverage.share_outside(ProfilePoint(0.1, np.inf, 0.0), np.zeros(4), tissue) == 0.0


def test_too_few_held_out_cells_are_refused() -> None:
    with pytest.raises(InputError, match=r"200 cells .* were held out.*larger holdout="):
        coverage.measure([run_of(200, 0.5)])
