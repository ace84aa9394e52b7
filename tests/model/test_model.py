from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse
from scipy.spatial.distance import cdist
from scvi.model import SCVI

import isovi
from isovi import (
    AllPairs,
    Constraint,
    Delaunay,
    Gaussian,
    InputError,
    IsoSCVI,
    IsoVAE,
    IsoviWarning,
    Neighbors,
    Obsp,
    Penalty,
    Radius,
    SameDomain,
)
from isovi.graph import PairKind
from isovi.model.model import _check_distortion
from isovi.model.module import DistancePreservingModule
from isovi.model.training import WARM_UP_EPOCHS
from isovi.simulate import simulate
from isovi.spots import spacing

SMALL = {"n_latent": 4, "n_hidden": 16}
MODELS = [IsoSCVI, IsoVAE]


def latent_of(
    cls: type, adata: AnnData, quickly: Callable, setup: dict, init: dict, train: dict
) -> np.ndarray:
    scvi.settings.seed = 7
    cls.setup_anndata(adata, **setup)
    return quickly(cls(adata, **SMALL, **init), **train).get_latent_representation()


# ------------------------------------------------------------------ distortion=None


PLAIN: dict[str, tuple[dict, dict, dict, dict]] = {
    "defaults": ({}, {}, {}, {}),
    "early stopping": ({}, {}, {}, {"max_epochs": 40, "early_stopping": True, "early_stopping_patience": 2}),
    "sections": ({}, {"section_key": "section"}, {}, {}),
    "batches": (
        {
            "batch_key": "batch",
            "categorical_covariate_keys": ["domain"],
            "continuous_covariate_keys": ["age"],
        },
        {"section_key": "section"},
        {"gene_likelihood": "nb", "dispersion": "gene-batch", "n_layers": 2},
        {},
    ),
    "training": ({}, {}, {}, {"plan_kwargs": {"lr": 1e-2}, "train_size": 0.6, "check_val_every_n_epoch": 1}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_without_distortion_the_latent_is_exactly_the_backbones(
    make_tissue: Callable, quickly: Callable, case: str
) -> None:
    setup, spatial, init, train = PLAIN[case]
    plain = latent_of(SCVI, make_tissue(), quickly, setup, init, train)
    ours = latent_of(
        IsoSCVI, make_tissue(), quickly, {**setup, **spatial}, {**init, "distortion": None}, train
    )
    assert np.array_equal(ours, plain)


def test_counts_that_were_checked_are_not_looked_at_again(make_tissue: Callable, quickly: Callable) -> None:
    """Nothing but the check is given up: the latent, and what is saved of the setup, are the same."""
    latents, registries = [], []
    for check_counts in (True, False):
        scvi.settings.seed = 0
        adata = make_tissue()
        IsoSCVI.setup_anndata(adata, section_key="section", check_counts=check_counts)
        model = quickly(IsoSCVI(adata, **SMALL))
        latents.append(model.get_latent_representation())
        registries.append(model.registry["setup_args"])
    assert np.array_equal(*latents)
    assert registries[0] == registries[1] and "check_counts" not in registries[0]
    adata.X = adata.X * 0.5
    IsoSCVI.setup_anndata(adata)
    with pytest.raises(InputError, match="whole numbers"):
        IsoSCVI(adata, **SMALL)
    IsoSCVI.setup_anndata(adata, check_counts=False)
    IsoSCVI(adata, **SMALL)


def test_without_distortion_there_is_no_scale(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = quickly(IsoSCVI(tissue, **SMALL, distortion=None))
    assert not any("distortion" in key for key in model.history_)
    with pytest.raises(InputError, match=r"distortion=None.*no distance scale.*Penalty\(0\)"):
        _ = model.distance_scale


def test_the_plain_backbone_is_saved_and_loaded(tissue: AnnData, quickly: Callable, tmp_path: Path) -> None:
    """scvi-tools reads every attribute on saving: one that raises anything but AttributeError failed it."""
    IsoSCVI.setup_anndata(tissue)
    model = quickly(IsoSCVI(tissue, **SMALL, distortion=None))
    model.save(tmp_path / "model")
    loaded = IsoSCVI.load(tmp_path / "model", tissue)
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert not hasattr(loaded, "distance_scale")


def test_a_penalty_of_zero_measures_without_pressing(make_tissue: Callable, quickly: Callable) -> None:
    """The latent is the plain one but for rounding, since the likelihood is computed another way."""
    init = {"n_layers": 1, "dropout_rate": 0.1}
    plain = latent_of(SCVI, make_tissue(), quickly, {}, init, {})
    train = {"thinning": None, "early_stopping": False}
    ours = latent_of(IsoSCVI, make_tissue(), quickly, {}, {**init, "distortion": Penalty(0.0)}, train)
    np.testing.assert_allclose(ours, plain, atol=1e-3)


def test_network_defaults_hold_with_a_distortion_unless_given(tissue: AnnData) -> None:
    IsoSCVI.setup_anndata(tissue)

    def layers(**kwargs: Any) -> int:
        return len(IsoSCVI(tissue, **kwargs).module.z_encoder.encoder.fc_layers)

    assert layers() == layers(distortion=Penalty(0.0)) == 2
    assert layers(n_layers=3) == 3
    assert layers(distortion=None) == 1


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("cls", MODELS)
def test_the_history_tells_distortion_scale_and_multiplier(
    tissue: AnnData, quickly: Callable, cls: type
) -> None:
    cls.setup_anndata(tissue)
    n_epochs = WARM_UP_EPOCHS + 1
    model = quickly(cls(tissue, **SMALL), max_epochs=n_epochs)
    for name in ("relative_distortion", "distance_scale", "multiplier"):
        for split in ("train", "validation"):
            values = model.history_[f"{name}_{split}"].to_numpy(float).ravel()
            assert len(values) == n_epochs
            assert np.isfinite(values).all() and (values >= 0).all()
    multiplier = model.history_["multiplier_train"].to_numpy(float).ravel()
    assert (multiplier > 0).tolist() == [False] * WARM_UP_EPOCHS + [True]
    assert isinstance(model.distance_scale, float) and model.distance_scale > 0


def training_pairs(model: Any) -> tuple[np.ndarray, np.ndarray]:
    spots = np.sort(model.train_indices)
    upper = np.triu_indices(len(spots), 1)
    latent, tissue = (
        data[spots] for data in (model.get_latent_representation(part="place"), model.adata.obsm["spatial"])
    )
    same = (
        model.adata.obs["section"].to_numpy()[spots][:, None] == model.adata.obs["section"].to_numpy()[spots]
    )[upper]
    return cdist(latent, latent)[upper][same], cdist(tissue, tissue)[upper][same]


def distortion_of(model: Any) -> float:
    """Least relative distortion of the training spots, by trying every ratio of a pair as scale."""
    latent, tissue = training_pairs(model)
    scales = np.quantile(latent / tissue, np.linspace(0.01, 0.99, 99))
    return min(np.abs(latent - scale * tissue).sum() / (scale * tissue).sum() for scale in scales)


@pytest.mark.parametrize("cls", MODELS)
def test_the_constraint_is_met_and_pays_for_itself(quickly: Callable, cls: type) -> None:
    train = {"max_epochs": 60, "early_stopping": False, "plan_kwargs": {"lr": 4e-3}}
    reached = {}
    for asked in (Penalty(0.0), Constraint(0.25)):
        adata = simulate("layers", n_obs=240, n_genes=200, n_sections=2, seed=0)
        scvi.settings.seed = 1
        cls.setup_anndata(adata, section_key="section")
        model = quickly(cls(adata, n_latent=5, n_hidden=64, dropout_rate=0.0, distortion=asked), **train)
        reached[str(asked)] = distortion_of(model)
    assert reached["none"] > 0.35
    assert reached["constraint 0.25"] < 0.28


def test_the_scale_is_fitted_to_the_training_spots(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue, section_key="section")
    model = quickly(IsoSCVI(tissue, **SMALL))
    latent, lengths = training_pairs(model)
    units = np.array([model.coordinate_units[name] for name in ("section_0", "section_1")])
    assert np.ptp(units) / units.mean() < 0.1
    cost = [
        np.abs(latent - s * lengths / units.mean()).sum() / s
        for s in model.distance_scale * np.array([0.9, 1, 1.1])
    ]
    assert cost[1] < min(cost[0], cost[2])


def test_units_and_scales_are_told_by_section(fitted: IsoSCVI) -> None:
    assert set(fitted.distance_scale) == {"section_0", "section_1"}
    assert all(isinstance(value, float) and value > 0 for value in fitted.distance_scale.values())
    for name, unit in fitted.coordinate_units.items():
        of = fitted.adata.obs["section"] == name
        assert unit == pytest.approx(spacing(fitted.adata.obsm["spatial"][of]))


PAIRS: list[PairKind] = [
    AllPairs(),
    Neighbors(4),
    Radius(2.5),
    Delaunay(),
    Gaussian(2.0),
    SameDomain("domain"),
    Obsp("links"),
    AllPairs() | Neighbors(4),
]


@pytest.mark.parametrize("pairs", PAIRS, ids=str)
def test_every_kind_of_pairs_trains(tissue: AnnData, quickly: Callable, pairs: PairKind) -> None:
    near = cdist(*[tissue.obsm["spatial"]] * 2) < 200
    tissue.obsp["links"] = near & (
        tissue.obs["section"].to_numpy()[:, None] == tissue.obs["section"].to_numpy()
    )
    IsoSCVI.setup_anndata(tissue, section_key="section")
    model = IsoSCVI(tissue, **SMALL, pairs=pairs, distortion=Constraint(0.2))
    splitters = []
    made = type(model)._data_splitter_cls
    quickly(model, max_epochs=2, callbacks=[Remember(splitters)])
    assert splitters == ["PatchSplitter" if pairs.local else made.__name__]
    history = model.history_["relative_distortion_train"].to_numpy(float)
    assert len(history) == 2 and np.isfinite(history).all() and (history > 0).all()
    assert model.distance_scale > 0
    assert model.module.objective.weights is None and model.module.objective.inclusion is None
    assert model._data_splitter_cls is made
    assert np.isfinite(model.get_elbo())


class Remember(scvi.train._callbacks.Callback):
    """Notes what draws the minibatches."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        self.names.append(type(trainer.datamodule).__name__)


def test_a_failed_training_leaves_the_model_as_it_was(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, **SMALL, pairs=Neighbors(4))
    with pytest.raises(TypeError, match="no_such_argument"):
        quickly(model, no_such_argument=1)
    assert model.module.objective.weights is None
    assert "_data_splitter_cls" not in vars(model)
    assert quickly(model).is_trained


@pytest.mark.parametrize("kind", ["learned", "profiled"])
@pytest.mark.parametrize("distance", ["mean", "sample", "wasserstein"])
def test_every_distance_and_scale_trains(
    tissue: AnnData, quickly: Callable, distance: str, kind: str
) -> None:
    IsoSCVI.setup_anndata(tissue)
    asked = Penalty(5.0, distance=distance, scale=kind)
    model = quickly(IsoSCVI(tissue, **SMALL, distortion=asked), max_epochs=2)
    assert model.distance_scale > 0


def test_a_training_reads_no_number_off_the_graph(
    tissue: AnnData, quickly: Callable, recwarn: pytest.WarningsRecorder
) -> None:
    """PyTorch warns where a tensor that requires a gradient is turned into a number."""
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, **SMALL)
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else only the first test to meet it would see it
    try:
        quickly(model)
    finally:
        torch.set_warn_always(before)
    assert [str(one.message) for one in recwarn if "requires_grad" in str(one.message)] == []


def test_early_stopping_restores_the_best_epoch(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model, states = IsoSCVI(tissue, **SMALL), []

    class Keep(scvi.train._callbacks.Callback):
        def on_validation_end(self, _: Any, plan: Any) -> None:
            states.append(plan.module.z_encoder.mean_encoder.weight.detach().clone())

    quickly(model, max_epochs=80, early_stopping_patience=3, plan_kwargs={"lr": 3e-2}, callbacks=[Keep()])
    elbo = model.history_["elbo_validation"].to_numpy(float).ravel()
    assert len(elbo) < 80, "it stopped early"
    assert int(elbo.argmin()) < len(elbo) - 1
    assert torch.equal(model.module.z_encoder.mean_encoder.weight, states[int(elbo.argmin())])


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_collapse_is_judged_in_the_epoch_that_is_kept(
    tissue: AnnData, quickly: Callable, early_stopping: bool, recwarn: pytest.WarningsRecorder
) -> None:
    """The last epoch has lost its spread: a warning belongs to a model that stays there only."""
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, **SMALL)

    class CollapseAtLast(scvi.train._callbacks.Callback):
        def on_train_end(self, *_: Any) -> None:
            model.module.objective.running[2] = 0.01

    quickly(model, early_stopping=early_stopping, callbacks=[CollapseAtLast()])
    collapses = [one for one in recwarn if issubclass(one.category, IsoviWarning)]
    assert (model.module.objective.running_spread > 0.1) is early_stopping
    assert len(collapses) == (not early_stopping)


def test_the_epochs_allowed_do_not_change_a_training_that_stops_early(
    make_tissue: Callable, quickly: Callable
) -> None:
    latents, epochs = [], []
    for max_epochs in (100, 300, -1):  # -1: until early stopping, as in scvi-tools
        scvi.settings.seed = 0
        tissue = make_tissue()
        IsoSCVI.setup_anndata(tissue)
        stops = {"early_stopping_patience": 4, "plan_kwargs": {"lr": 1e-2}}
        model = quickly(IsoSCVI(tissue, **SMALL), max_epochs=max_epochs, **stops)
        latents.append(model.get_latent_representation())
        epochs.append(len(model.history_["elbo_train"]))
    assert WARM_UP_EPOCHS < model.training_outcome_.kept_epoch < epochs[0] < 100
    assert model.module.objective.multiplier > 0
    assert len(set(epochs)) == 1
    assert np.array_equal(latents[0], latents[1]) and np.array_equal(latents[0], latents[2])


@pytest.mark.parametrize("callbacks", [None, []])
def test_no_callbacks_may_be_given_as_scvi_tools_takes_them(
    tissue: AnnData, quickly: Callable, callbacks: Any
) -> None:
    IsoSCVI.setup_anndata(tissue)
    assert quickly(IsoSCVI(tissue, **SMALL), max_epochs=1, callbacks=callbacks).is_trained


def test_a_raw_penalty_that_shrinks_the_latent_is_told(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, **SMALL, distortion=Penalty(1e5, relative=False))
    with pytest.warns(IsoviWarning, match="collapsed.*Use the relative distortion"):
        quickly(model, max_epochs=30, plan_kwargs={"lr": 1e-2}, early_stopping=False)


def test_what_was_reached_is_told_in_plain_words(
    tissue: AnnData, quickly: Callable, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("isovi.model.training.WARM_UP_EPOCHS", 1)
    monkeypatch.setattr("isovi.model.training.PATIENCE", 1)
    monkeypatch.setattr("isovi.model.training.NOTICEABLE", 0.9)
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, **SMALL, distortion=Constraint(0.3))
    with caplog.at_level("INFO", logger="isovi"):
        quickly(model, max_epochs=5, early_stopping=False, check_val_every_n_epoch=1)
    told, found = model.training_summary_, model.training_outcome_
    assert told in caplog.text and told == str(found)
    assert told.startswith("Trained 5 epochs")
    assert "The constraint of 0.3 was not met: the multiplier was frozen in epoch" in told
    assert (found.reason, found.target, found.n_epochs) == ("stalled", 0.3, 5)
    measured = model.history_["relative_distortion_validation"].to_numpy(float).ravel()
    assert found.lowest_validation_distortion == pytest.approx(measured[1])  # no later fall counts as one
    assert found.validation_distortion == pytest.approx(measured[-1])
    assert found.multiplier == model.history_["multiplier_train"].to_numpy(float)[-1]


def test_every_spot_can_be_used_for_training(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = quickly(IsoSCVI(tissue, **SMALL), train_size=1.0)
    assert len(model.train_indices) == tissue.n_obs
    assert model.distance_scale > 0


def test_training_can_go_on(fitted: IsoSCVI, quickly: Callable, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model", save_anndata=True)
    model = IsoSCVI.load(tmp_path / "model")
    quickly(model, max_epochs=2)
    assert np.isfinite(model.get_latent_representation()).all()
    assert len(model.history_["elbo_train"]) == len(fitted.history_["elbo_train"]) + 2
    assert model.training_summary_.startswith("Trained 2 epochs; the state of epoch ")


def test_epochs_are_counted_where_every_step_is_logged(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, **SMALL)
    for n_trained in (3, 2):
        quickly(model, max_epochs=n_trained, plan_kwargs={"on_step": True, "on_epoch": True})
        assert model.training_summary_.startswith(f"Trained {n_trained} epochs;")
    assert len(model.history_["elbo_train_epoch"]) == 5
    assert "train_loss_step" in model.history_


# ------------------------------------------------------------------ what the backbone does


def test_the_data_gains_documented_keys_only(make_tissue: Callable, quickly: Callable) -> None:
    adata, before = make_tissue(), make_tissue()
    IsoSCVI.setup_anndata(adata, section_key="section")
    quickly(IsoSCVI(adata, **SMALL))
    assert set(adata.obsm) - set(before.obsm) == {"_isovi_coordinates"}
    assert {key for key in adata.obs if key not in before.obs and not key.startswith("_scvi")} == {
        "_isovi_cell"
    }
    assert not set(adata.layers) - {None} and not set(adata.obsp)  # None is X, since anndata 0.13
    assert (adata.X != before.X).nnz == 0
    assert np.array_equal(adata.obsm["spatial"], before.obsm["spatial"])


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("stored", [True, False])
def test_a_saved_model_comes_back_whole(
    make_tissue: Callable, quickly: Callable, tmp_path: Path, cls: type, stored: bool
) -> None:
    adata = make_tissue()
    cls.setup_anndata(adata, section_key="section", batch_key="batch")
    asked, pairs = Constraint(0.3, per_section=True, scale="learned"), Neighbors(4) | AllPairs()
    model = quickly(cls(adata, **SMALL, distortion=asked, pairs=pairs))
    model.save(tmp_path / "model", save_anndata=stored)
    loaded = cls.load(tmp_path / "model", adata=None if stored else make_tissue())
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert loaded.distance_scale == model.distance_scale
    assert loaded.coordinate_units == model.coordinate_units
    assert (loaded.distortion, loaded.pairs) == (asked, pairs)
    assert loaded.history_.keys() == model.history_.keys()


def test_a_saved_model_keeps_its_network_whatever_the_defaults_become(
    fitted: IsoSCVI, tmp_path: Path, monkeypatch: Any
) -> None:
    fitted.save(tmp_path / "model", save_anndata=True)
    monkeypatch.setattr(IsoSCVI, "network_defaults", {"n_layers": 3})
    loaded = IsoSCVI.load(tmp_path / "model")
    assert np.array_equal(loaded.get_latent_representation(), fitted.get_latent_representation())


def test_expression_and_samples_have_their_shapes(fitted: IsoSCVI) -> None:
    shares = fitted.get_normalized_expression(n_samples=2, transform_batch="a")
    assert shares.shape == (150, 40)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    samples = fitted.posterior_predictive_sample(n_samples=2)
    assert samples.shape == (150, 40, 2)
    assert (samples.todense() >= 0).all()
    assert np.isfinite(fitted.get_marginal_ll(n_mc_samples=4, n_mc_samples_per_pass=2))
    assert np.isfinite(fitted.get_reconstruction_error()["reconstruction_loss"])


def test_differential_expression_works(fitted: IsoSCVI) -> None:
    table = fitted.differential_expression(groupby="section", group1="section_0", silent=True, mode="change")
    assert len(table) == 40
    assert np.isfinite(table[["bayes_factor", "lfc_mean"]].to_numpy(float)).all()


def test_a_few_spots_can_be_encoded(fitted: IsoSCVI) -> None:
    whole = fitted.get_latent_representation()
    for rows in ([3], [0, 149], [7, 8, 9]):
        few = fitted.adata[rows].copy()
        np.testing.assert_allclose(fitted.get_latent_representation(few), whole[rows], atol=1e-5)


def test_unseen_sections_and_spots_without_position_can_be_encoded(
    fitted: IsoSCVI, make_tissue: Callable
) -> None:
    other = make_tissue(60, seed=5)
    expected = fitted.get_latent_representation(other)
    new = make_tissue(60, seed=5)
    new.obs["section"] = "somewhere else"
    assert np.array_equal(fitted.get_latent_representation(new), expected)
    assert np.isfinite(fitted.get_elbo(new))
    del new.obsm["spatial"]
    assert np.array_equal(fitted.get_latent_representation(new.copy()), expected)
    assert np.isfinite(fitted.get_elbo(new.copy()))


@pytest.mark.parametrize(
    "case",
    [
        "with coordinates",
        "a new section and batch",
        "a few coordinates",
        "without coordinates",
        "a new section without coordinates",
    ],
)
def test_a_query_can_be_added(fitted: IsoSCVI, make_tissue: Callable, quickly: Callable, case: str) -> None:
    adata = make_tissue(60, seed=5)
    if "section" in case:
        adata.obs["section"] = "new"
    if "batch" in case:
        adata.obs["batch"] = "z"
    if "few" in case:
        adata.obsm["spatial"][20:] = np.nan
    if "without" in case:
        del adata.obsm["spatial"]
    query = IsoSCVI.load_query_data(adata, fitted)
    assert (query.distortion, query.pairs) == (fitted.distortion, fitted.pairs)
    before = dict(fitted.distance_scale)
    quickly(query, max_epochs=2, plan_kwargs={"weight_decay": 0.0})
    assert query.get_latent_representation().shape == (60, 4)
    assert ("relative_distortion_train" in query.history_) == ("without" not in case)
    new = {"new"} if "section" in case else set()
    assert set(query.distance_scale) == set(before) | new
    finite = {name for name, value in query.distance_scale.items() if np.isfinite(value)}
    assert finite >= (set(before) if "without" in case else set(before) | new)
    if "without" in case:
        assert all(query.distance_scale[name] == value for name, value in before.items())


def test_minified_data_gives_the_same_latent(fitted: IsoSCVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "full", save_anndata=True)
    model = IsoSCVI.load(tmp_path / "full")
    moments = model.get_latent_representation(return_dist=True)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = moments
    model.minify_adata()
    assert model.adata.X.nnz == 0
    assert np.array_equal(model.get_latent_representation(), moments[0])
    np.testing.assert_allclose(model.get_normalized_expression().sum(axis=1), 1, rtol=1e-4)
    model.save(tmp_path / "small", save_anndata=True)
    loaded = IsoSCVI.load(tmp_path / "small")
    assert np.array_equal(loaded.get_latent_representation(), moments[0])
    assert loaded.distance_scale == fitted.distance_scale


def test_minified_data_with_counts_has_the_same_elbo(fitted: IsoSCVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "full", save_anndata=True)
    model = IsoSCVI.load(tmp_path / "full")
    moments = model.get_latent_representation(return_dist=True)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = moments
    model.minify_adata(minified_data_type="latent_posterior_parameters_with_counts")
    torch.manual_seed(0)
    minified = float(model.get_elbo())
    torch.manual_seed(0)
    assert minified == pytest.approx(float(fitted.get_elbo()), rel=1e-5)


# ------------------------------------------------------------------ the same seed


PROGRAM = """
import hashlib, logging, warnings
warnings.simplefilter("ignore")
import scvi
from isovi import AllPairs, IsoSCVI, Neighbors
from isovi.simulate import simulate
scvi.settings.verbosity = logging.ERROR
for pairs in (AllPairs(), AllPairs() | Neighbors(4)):
    scvi.settings.seed = 5
    adata = simulate("layers", n_obs=150, n_genes=40, n_sections=2, seed=0)
    IsoSCVI.setup_anndata(adata, section_key="section")
    model = IsoSCVI(adata, n_latent=4, pairs=pairs)
    model.train(max_epochs=3, batch_size=32, accelerator="cpu", enable_progress_bar=False)
    digest = hashlib.sha256(model.get_latent_representation().tobytes()).hexdigest()
    print("latent", digest, model.distance_scale)
"""


def test_the_same_seed_gives_the_same_latent_bit_for_bit_in_another_process() -> None:
    source = Path(isovi.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [[line for line in run.communicate()[0].splitlines() if line.startswith("latent")] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert told[0] == told[1]
    assert len(set(told[0])) == 2


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"spatial_key": "positions"}, r'no "positions"; it has.*"spatial"'),
        ({"section_key": "slide"}, r'no column "slide"; it has.*"section"'),
        ({"spatial_key": "one"}, r"\(150, 1\)"),
        ({"spatial_key": "words"}, "must be numbers"),
    ],
)
@pytest.mark.parametrize("cls", MODELS)
def test_bad_positions_are_refused_at_setup(tissue: AnnData, cls: type, keys: dict, message: str) -> None:
    tissue.obsm["one"] = tissue.obsm["spatial"][:, :1]
    tissue.obsm["words"] = tissue.obsm["spatial"].astype(str)
    with pytest.raises(InputError, match=message):
        cls.setup_anndata(tissue, **keys)


@pytest.mark.parametrize(
    ("pairs", "message"), [(Obsp("links"), "no 'links'"), (SameDomain("nowhere"), 'no column "nowhere"')]
)
def test_pairs_that_cannot_be_found_are_refused_before_training(
    tissue: AnnData, quickly: Callable, pairs: PairKind, message: str
) -> None:
    IsoSCVI.setup_anndata(tissue)
    with pytest.raises(InputError, match=message):
        quickly(IsoSCVI(tissue, pairs=pairs))


@pytest.mark.parametrize("given", [0.3, "constraint", Constraint])
def test_what_is_no_distortion_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match=r"distortion=.*It is a Constraint, a Penalty, or None"):
        _check_distortion(given)


def test_the_module_is_the_mixin_over_the_backbones() -> None:
    assert issubclass(IsoSCVI._module_cls, DistancePreservingModule)
    assert issubclass(IsoSCVI._module_cls, SCVI._module_cls)


def test_a_query_without_the_models_genes_is_refused(fitted: IsoSCVI, make_tissue: Callable) -> None:
    query = make_tissue()
    query.var_names = [f"other{i}" for i in range(query.n_vars)]
    with pytest.raises(InputError, match="other0"):
        IsoSCVI.load_query_data(query, fitted)


# ------------------------------------------------------------------ counts, or other values


@pytest.fixture
def log_normalised(tissue: AnnData) -> AnnData:
    tissue.layers["counts"] = tissue.X.copy()
    tissue.X = sparse.csr_matrix(np.log1p(1e4 * tissue.X.toarray() / tissue.X.sum(axis=1)))
    return tissue


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("distortion", [None, Constraint(0.3)])
def test_values_that_are_no_counts_are_refused_before_training(
    log_normalised: AnnData, cls: type, distortion: Any
) -> None:
    cls.setup_anndata(log_normalised)
    with pytest.raises(InputError, match="counts"):
        cls(log_normalised, **SMALL, distortion=distortion)
    cls.setup_anndata(log_normalised, layer="counts")
    cls(log_normalised, **SMALL, distortion=distortion)


def test_a_gaussian_likelihood_takes_values_that_are_no_counts(
    log_normalised: AnnData, quickly: Callable
) -> None:
    IsoSCVI.setup_anndata(log_normalised, section_key="section")
    model = quickly(IsoSCVI(log_normalised, **SMALL, gene_likelihood="normal"))
    assert model.module.thinning is None, "there are no counts to thin"
    assert np.isfinite(model.history_["relative_distortion_train"].to_numpy(float)).all()
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.get_normalized_expression().to_numpy()).all()
    with pytest.raises(InputError, match="thinning"):
        model.train(1, thinning=(0.3, 1.0))


def test_the_pair_graph_is_built_once(
    make_tissue: Callable, quickly: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was built a second time to fit λ after training."""
    built, fit = [], Neighbors.fit
    monkeypatch.setattr(Neighbors, "fit", lambda self, *given: built.append(1) or fit(self, *given))
    adata = make_tissue()
    IsoSCVI.setup_anndata(adata, section_key="section")
    model = quickly(IsoSCVI(adata, pairs=Neighbors(4), **SMALL))
    assert np.isfinite(model.distance_scale) and len(built) == 1
