"""Any backbone becomes distance-preserving: one test body over several of scvi-tools' models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import NumericalObsField
from scvi.model import AUTOZI, PEAKVI, SCANVI, TOTALVI, LinearSCVI

from isovi import Constraint, InputError, IsoSCVI, Neighbors, Penalty, preserve_distances
from isovi.model.training import BestEpoch

LABELS = {"labels_key": "label", "unlabeled_category": "unknown"}


@dataclass(frozen=True)
class Backbone:
    """How a backbone is set up, made and trained here."""

    model: type
    setup: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    local: bool = True


BACKBONES = {
    "scanvi": Backbone(SCANVI, LABELS, {"n_hidden": 32}, {"n_samples_per_label": 10}, local=False),
    "totalvi": Backbone(
        TOTALVI, {"protein_expression_obsm_key": "protein"}, {"empirical_protein_background_prior": False}
    ),
    "peakvi": Backbone(PEAKVI, init={"n_hidden": 32}, train={"lr": 4e-3}),
    "linear": Backbone(LinearSCVI, init={"n_hidden": 32}),
    "autozi": Backbone(AUTOZI, init={"n_hidden": 32}),
}
SLOW = {"totalvi", "scanvi", "peakvi"}
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BACKBONES]


def made(name: str, adata: AnnData, **kwargs: Any) -> Any:
    backbone = BACKBONES[name]
    adata.obsm["protein"] = np.random.default_rng(0).poisson(5, (adata.n_obs, 4))
    cls = preserve_distances(backbone.model)
    cls.setup_anndata(adata, section_key="section", **backbone.setup)
    return cls(adata, n_latent=5, **backbone.init, **kwargs)


@pytest.mark.parametrize("name", EVERY)
def test_every_backbone_learns_distances(
    make_tissue: Callable, quickly: Callable, name: str, tmp_path: Path
) -> None:
    final, weight, train = [], 0.0, {"max_epochs": 40, "plan_kwargs": {"lr": 4e-3}, **BACKBONES[name].train}
    for times_the_loss in (0, 10):
        scvi.settings.seed = 2
        model = quickly(
            made(name, make_tissue(), distortion=Penalty(times_the_loss * weight, n_place=0)), **train
        )
        final.append(model.history_["relative_distortion_train"].to_numpy(float)[-5:].mean())
        assert np.isfinite(model.distance_scale) and model.distance_scale > 0
        loss = model.history_.get("train_loss", model.history_.get("train_loss_epoch"))
        weight = abs(loss.to_numpy(float)[-1].item())  # the unit of the weight
    assert final[1] < 0.9 * final[0]
    latent = model.get_latent_representation()
    assert latent.shape == (150, 5)
    model.save(tmp_path / name, save_anndata=True)
    loaded = type(model).load(tmp_path / name)
    np.testing.assert_array_equal(loaded.get_latent_representation(), latent)
    assert loaded.distance_scale == model.distance_scale


@pytest.mark.parametrize("name", EVERY)
def test_near_pairs_train_where_the_backbones_batches_can_be_drawn(
    tissue: AnnData, quickly: Callable, name: str
) -> None:
    model = made(name, tissue, pairs=Neighbors(4))
    if not BACKBONES[name].local:
        with pytest.raises(InputError, match=r"Neighbors\(k=4\).*IsoSCANVI.*AllPairs"):
            quickly(model)
        assert model.module.objective.weights is None
        return
    quickly(model, max_epochs=1)
    assert np.isfinite(model.history_["relative_distortion_train"].to_numpy(float)).all()


def test_scanvi_starts_from_a_distance_preserving_scvi(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue, section_key="section")
    reference = quickly(IsoSCVI(tissue, n_latent=4, n_hidden=16, distortion=Constraint(0.3)))
    model = preserve_distances(SCANVI).from_scvi_model(reference, "unknown", labels_key="label")
    assert model.distortion == Constraint(0.3)
    taken = model.module.state_dict()
    for key, value in reference.module.state_dict().items():
        if key.startswith("z_encoder."):
            assert torch.equal(taken[key], value), key
    quickly(model, max_epochs=2)
    assert "relative_distortion_train" in model.history_
    assert model.predict().shape == (150,)


def test_the_plain_backbone_is_exact_for_others_too(make_tissue: Callable, quickly: Callable) -> None:
    latents = []
    for cls, extra in ((LinearSCVI, {}), (preserve_distances(LinearSCVI), {"distortion": None})):
        adata = make_tissue()
        scvi.settings.seed = 2
        cls.setup_anndata(adata)
        latents.append(quickly(cls(adata, n_latent=4, **extra)).get_latent_representation())
    assert np.array_equal(*latents)


def test_the_classes_are_named_and_documented_after_the_backbone() -> None:
    made_class = preserve_distances(SCANVI)
    assert made_class.__name__ == "IsoSCANVI"
    assert made_class.__doc__ == SCANVI.__doc__
    assert made_class is preserve_distances(SCANVI)


@pytest.mark.parametrize(("name", "stops"), [("totalvi", True), ("peakvi", True), ("linear", False)])
def test_the_best_epoch_is_kept_where_the_backbone_stops_early_by_default(
    tissue: AnnData, name: str, stops: bool
) -> None:
    model = made(name, tissue)
    kinds = [type(callback) for callback in model._callbacks(model.module.objective, {})]
    assert (BestEpoch in kinds) == stops
    assert BestEpoch in [
        type(callback) for callback in model._callbacks(model.module.objective, {"early_stopping": True})
    ]
    assert BestEpoch not in [
        type(callback) for callback in model._callbacks(model.module.objective, {"early_stopping": False})
    ]


class NumbersItsCells(LinearSCVI):
    """A backbone that registers the rows of the cells itself, as MULTIVI and MRVI do."""

    @classmethod
    def setup_anndata(cls, adata: AnnData, **kwargs: Any) -> None:
        super().setup_anndata(adata, **kwargs)
        adata.obs["_indices"] = np.arange(adata.n_obs)
        manager = cls._get_most_recent_anndata_manager(adata, required=True)
        manager.register_new_fields([NumericalObsField(REGISTRY_KEYS.INDICES_KEY, "_indices")])


def test_a_backbone_that_numbers_its_cells_keeps_its_own_field(tissue: AnnData, quickly: Callable) -> None:
    cls = preserve_distances(NumbersItsCells)
    cls.setup_anndata(tissue)
    model = quickly(cls(tissue, n_latent=4, pairs=Neighbors(4)))
    assert model.adata_manager.data_registry[REGISTRY_KEYS.INDICES_KEY].attr_key == "_indices"
    assert "_isovi_cell" not in tissue.obs
    assert np.isfinite(model.history_["relative_distortion_train"].to_numpy(float)).all()


TRIED = {"SCVI", "CondSCVI", "MULTIVI", *(backbone.model.__name__ for backbone in BACKBONES.values())}
REFUSED = {"AmortizedLDA": "a model of Pyro", "DestVI": "no latent representation of each cell"}


def test_every_class_of_scvi_tools_is_tried_or_refused() -> None:
    known = {name for name in scvi.model.__all__ if isinstance(getattr(scvi.model, name), type)}
    assert known == TRIED | REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_cannot_keep_distances_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} was given.*{REFUSED[name]}.*such as scvi.model.SCVI"):
        preserve_distances(getattr(scvi.model, name))


@pytest.mark.filterwarnings("ignore:MULTIVI:DeprecationWarning")
def test_a_class_that_takes_mudata_only_is_refused_at_setup(tissue: AnnData) -> None:
    with pytest.raises(InputError, match="takes MuData only"):
        preserve_distances(scvi.model.MULTIVI).setup_anndata(tissue, batch_key="section")


def test_the_model_of_conditional_references_trains_with_distances(
    make_tissue: Callable, quickly: Callable
) -> None:
    adata = make_tissue()
    cls = preserve_distances(scvi.model.CondSCVI)
    cls.setup_anndata(adata, labels_key="label")
    model = quickly(cls(adata), max_epochs=1)
    assert np.isfinite(model.history_["relative_distortion_train"].to_numpy(float)).all()
    assert len(model.get_latent_representation()) == adata.n_obs


def test_a_backbone_that_makes_its_network_otherwise_is_refused(tissue: AnnData) -> None:
    cls = preserve_distances(scvi.external.POISSONVI)
    cls.setup_anndata(tissue)
    with pytest.raises(InputError, match="IsoPOISSONVI makes a network of"):
        cls(tissue)


def test_a_spatialdata_is_refused_with_what_to_do() -> None:
    class SpatialData:  # of which only this is looked at
        tables: ClassVar[dict[str, Any]] = {}

    for made in (IsoSCVI, IsoSCVI.setup_anndata):
        with pytest.raises(InputError, match=r"table = IsoSCVI.setup_spatialdata\(sdata\).*IsoSCVI\(table\)"):
            made(SpatialData())
    with pytest.raises(InputError, match=r"str was given.*isovi.data.io.read\(path\)"):
        IsoSCVI("section.h5ad")
