"""The two parts of a latent representation: place, whose distances count, and identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from isovi import Constraint, InputError, IsoSCVI, IsoVAE, Penalty, tl
from isovi._records import as_data, from_data
from isovi.geometry.distortion import fitted_scale
from isovi.model.objective import Distortion, Objective
from isovi.run import Settings

N_CELLS, N_LATENT = 12, 5
ASKED = [Constraint(0.2, n_place=2), Penalty(2.0, n_place=2), Penalty(2.0, relative=False, n_place=2)]


def minibatch(n_latent: int = N_LATENT) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    drawn = {name: torch.as_tensor(rng.normal(size=(N_CELLS, n_latent))) for name in ("loc", "sample")}
    return {
        **drawn,
        "sd": torch.as_tensor(rng.uniform(0.2, 1, (N_CELLS, n_latent))),
        "coordinates": torch.as_tensor(rng.normal(0, 3, (N_CELLS, 2))),
        "section": torch.zeros(N_CELLS, dtype=torch.long),
        "cells": torch.arange(N_CELLS),
    }


def term_of(asked: Distortion, batch: dict[str, torch.Tensor]) -> Any:
    objective = Objective(asked, 1).double().train()
    objective.log_multiplier.fill_(0.7)
    return objective(**batch)


@pytest.mark.parametrize("distance", ["mean", "sample", "wasserstein"])
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_term_is_that_of_the_place_part_alone(asked: Distortion, distance: Any) -> None:
    asked, batch = replace(asked, distance=distance), minibatch()
    place = {
        name: values[:, :2] if name in ("loc", "sd", "sample") else values for name, values in batch.items()
    }
    found, alone = term_of(asked, batch), term_of(replace(asked, n_place=0), place)
    torch.testing.assert_close(found.loss, alone.loss, rtol=0, atol=0)
    torch.testing.assert_close(found.scale, alone.scale, rtol=0, atol=0)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_identity_part_has_no_gradient(asked: Distortion) -> None:
    batch = minibatch()
    batch["loc"].requires_grad_()
    term_of(asked, batch).loss.backward()
    gradient = batch["loc"].grad
    assert gradient is not None
    assert (gradient[:, 2:] == 0).all()
    assert (gradient[:, :2] != 0).any()


@pytest.mark.parametrize("n_place", [0, N_LATENT, N_LATENT + 3])
def test_the_whole_latent_counts_where_it_has_no_more_dimensions(n_place: int) -> None:
    batch = minibatch()
    found, whole = (term_of(Constraint(0.2, n_place=n), batch) for n in (n_place, N_LATENT))
    torch.testing.assert_close(found.loss, whole.loss, rtol=0, atol=0)


def test_the_balance_is_of_the_gradients_on_the_place_part() -> None:
    """A backbone whose loss pulls on free dimensions alone has no balance there: nothing is learned of it."""
    batch = minibatch()
    batch["loc"].requires_grad_()
    objective = Objective(Constraint(0.2, n_place=2), 1).double().train()
    term = objective(**batch)
    on_place, on_identity = (batch["loc"][:, part].square().sum() for part in (slice(2), slice(2, None)))
    for loss, known in ((on_identity, False), (on_place + 100 * on_identity, True)):
        objective.weigh(loss, term, batch["loc"])
        (loss + 0 * term.relative).backward(retain_graph=True)
        assert np.isfinite(objective.balance) == known
    by_hand = torch.autograd.grad(term.relative, batch["loc"])[0].norm()
    expected = (2 * batch["loc"][:, :2]).norm() / by_hand
    assert objective.balance == pytest.approx(float(expected.detach()), rel=1e-6)


def test_a_number_of_dimensions_is_not_negative() -> None:
    with pytest.raises(InputError, match="number of latent dimensions"):
        Constraint(n_place=-1)


# ------------------------------------------------------------------ models


@pytest.mark.parametrize("cls", [IsoSCVI, IsoVAE])
def test_the_parts_make_up_the_whole(tissue: AnnData, quickly: Callable, cls: type) -> None:
    cls.setup_anndata(tissue, section_key="section")
    model = quickly(cls(tissue, n_latent=6, distortion=Constraint(n_place=2)))
    whole = model.get_latent_representation()
    place, identity = (model.get_latent_representation(part=part) for part in ("place", "identity"))
    assert place.shape[1] == 2
    np.testing.assert_array_equal(np.hstack([place, identity]), whole)
    mean, variance = model.get_latent_representation(part="identity", return_dist=True)
    np.testing.assert_array_equal(mean, identity)
    assert variance.shape == identity.shape


@pytest.mark.parametrize("asked", [Constraint(n_place=0), Constraint(n_place=9), Penalty(0.0), None], ids=str)
def test_without_parts_each_is_the_whole(
    tissue: AnnData, quickly: Callable, asked: Distortion | None
) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = quickly(IsoSCVI(tissue, n_latent=4, distortion=asked), max_epochs=1)
    whole = model.get_latent_representation()
    for part in ("place", "identity"):
        np.testing.assert_array_equal(model.get_latent_representation(part=part), whole)


def test_the_scale_is_that_of_the_place_part(tissue: AnnData, quickly: Callable) -> None:
    """λ of a model is the weighted median of its place part's distances over those of training spots."""
    IsoSCVI.setup_anndata(tissue, section_key="section")
    model = quickly(IsoSCVI(tissue, n_latent=6, distortion=Constraint(n_place=2)))
    rows = np.asarray(model.train_indices)
    latent = model.get_latent_representation(indices=rows, part="place").astype(float)
    section = tissue.obs["section"].cat.codes.to_numpy()[rows].astype(np.int64)
    coordinates = tissue.obsm["_isovi_coordinates"][rows].astype(float)
    expected = fitted_scale(latent, coordinates, section, np.random.default_rng(0))
    assert model.distance_scale == pytest.approx(expected, rel=0.02)


def test_a_saved_model_knows_its_parts(tissue: AnnData, tmp_path: Path) -> None:
    IsoSCVI.setup_anndata(tissue)
    IsoSCVI(tissue, n_latent=6, distortion=Constraint(n_place=4)).save(tmp_path / "model")
    assert IsoSCVI.load(tmp_path / "model", tissue).distortion == Constraint(n_place=4)


# ------------------------------------------------------------------ records of before


def test_a_record_without_parts_is_of_the_whole_latent() -> None:
    data = as_data(Constraint(0.3))
    del data["n_place"]
    assert from_data(data, [Constraint]) == Constraint(0.3, n_place=0)
    settings = Settings(distortion=Penalty(2.0)).as_data()
    del settings["distortion"]["n_place"]
    assert Settings.from_data(settings).distortion == Penalty(2.0, n_place=0)


def test_a_pickle_without_parts_is_of_the_whole_latent(tmp_path: Path) -> None:
    from isovi.model.pickled import read_pickled

    before = Constraint(0.3)
    vars(before).pop("n_place")
    kept = {"attr_dict": {"distortion": before}, "var_names": np.array(["a"]), "model_state_dict": {}}
    torch.save(kept, tmp_path / "model.pt")
    assert read_pickled(tmp_path / "model.pt")[0]["distortion"] == Constraint(0.3, n_place=0)


# ------------------------------------------------------------------ data and tools


@pytest.fixture
def stored() -> AnnData:
    """Spots whose place part is their positions, and whose identity part is noise."""
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(0, 10, (80, 2))
    adata = AnnData(obsm={"spatial": coordinates})
    adata.obsm["X_isovi"] = np.hstack([2 * coordinates, rng.normal(0, 9, (80, 3))])
    adata.obsm["X_isovi_place"], adata.obsm["X_isovi_identity"] = np.split(adata.obsm["X_isovi"], [2], axis=1)
    adata.obs["isovi_split"] = np.where(np.arange(80) % 2, "heldout", "train")
    return adata


def test_geometry_is_that_of_the_place_part(stored: AnnData) -> None:
    """The place part is an isometry, so its L is 1; of the whole it is not."""
    assert pytest.approx(1) == tl.distortion_profile(stored).for_epsilon(0.1).L
    assert tl.distortion_profile(stored, use_rep="X_isovi").for_epsilon(0.1).L > 1.5
    assert stored.uns["isovi_profile"]["params"]["use_rep"] == "X_isovi"
    assert tl.distortion_map(stored).distortion.max() == pytest.approx(0, abs=1e-9)
    assert np.nanmax(tl.tissot(stored).anisotropy) == pytest.approx(1)
    assert stored.uns["isovi_tissot"]["params"]["use_rep"] == "X_isovi_place"
    assert pytest.approx(1) == tl.certificate(stored, epsilon=0.3).point.L


def test_domains_are_those_of_the_identity_part(stored: AnnData) -> None:
    stored.obsm["X_isovi_identity"] = np.repeat([[0.0], [9.0]], 40, axis=0)  # unlike the place part
    tl.domains(stored, n_domains=2)
    assert stored.uns["isovi_domain"]["use_rep"] == "X_isovi_identity"


@pytest.mark.parametrize(("genes", "of_model", "use_rep"), [
    (249, None, "X_isovi"),
    (250, None, "X_isovi_identity"),
    (300, 249, "X_isovi"),
    (300, 250, "X_isovi_identity"),
])  # fmt: skip
def test_with_few_genes_domains_are_those_of_the_whole(
    stored: AnnData, genes: int, of_model: int | None, use_rep: str
) -> None:
    adata = AnnData(obsm=dict(stored.obsm), var=pd.DataFrame(index=[f"g{n}" for n in range(genes)]))
    if of_model is not None:
        adata.var["isovi_gene"] = np.arange(genes) < of_model
    tl.domains(adata, n_domains=2)
    assert adata.uns["isovi_domain"]["use_rep"] == use_rep
    tl.domains(adata, n_domains=2, use_rep="X_isovi_place")
    assert adata.uns["isovi_domain"]["use_rep"] == "X_isovi_place"


def test_without_parts_tools_read_the_whole(stored: AnnData) -> None:
    del stored.obsm["X_isovi_place"], stored.obsm["X_isovi_identity"]
    tl.distortion_profile(stored)
    tl.domains(stored, n_domains=2)
    assert stored.uns["isovi_profile"]["params"]["use_rep"] == "X_isovi"
    assert stored.uns["isovi_domain"]["use_rep"] == "X_isovi"
