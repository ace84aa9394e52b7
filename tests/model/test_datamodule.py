"""Training without AnnData: with a datamodule, and the registry or nothing at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scvi
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from scvi.model import SCVI

from isovi import Constraint, InputError, IsoSCVI, IsoVAE, IsoviWarning, Neighbors, Penalty
from isovi.model import module

SMALL = {"n_latent": 4, "n_hidden": 16}
NETWORK = {**SMALL, "n_layers": 1, "dropout_rate": 0.1}


def registered(cls: type, adata: AnnData, **keys: Any) -> AnnDataManager:
    cls.setup_anndata(adata, batch_key="batch", **keys)
    return cls._get_most_recent_anndata_manager(adata, required=True)


def datamodule_of(manager: AnnDataManager, **kwargs: Any) -> DataSplitter:
    datamodule = DataSplitter(manager, batch_size=32, **kwargs)
    datamodule.n_vars, datamodule.n_batch = manager.summary_stats.n_vars, 2
    return datamodule


@pytest.mark.parametrize("cls", [IsoSCVI, IsoVAE])
@pytest.mark.parametrize("given", [False, True])
def test_a_datamodule_trains_the_same_model_as_the_anndata_behind_it(
    tissue: AnnData, quickly: Callable, cls: type, given: bool
) -> None:
    split = {"external_indexing": [np.arange(100), np.arange(100, 150), None]} if given else {}
    manager = registered(cls, tissue, section_key="section")
    train = {"early_stopping": False, "check_val_every_n_epoch": 1}
    histories = []
    for adata in (tissue, None):
        scvi.settings.seed = 7
        model = cls(adata, **SMALL, distortion=Constraint(0.3))
        source = {"datasplitter_kwargs": split} if adata else {"datamodule": datamodule_of(manager, **split)}
        quickly(model, **source, **train)
        histories.append(model.history_)
    assert histories[0].keys() == histories[1].keys() >= {"relative_distortion_train", "multiplier_train"}
    for name, of_adata in histories[0].items():
        assert np.array_equal(of_adata.to_numpy(float), histories[1][name].to_numpy(float)), name
    assert 0 < model.distance_scale < np.inf


def test_a_model_without_data_asks_for_a_datamodule_as_scvi_does(tissue: AnnData, quickly: Callable) -> None:
    datamodule = datamodule_of(registered(IsoSCVI, tissue))
    model = IsoSCVI(adata=None, **SMALL)
    assert model.module is None
    assert "of a datamodule" in repr(model)
    with pytest.raises(ValueError, match="max_epochs"):
        model.train(datamodule=datamodule)
    with pytest.raises(AttributeError):
        model.train()
    for n_trained in (3, 2):
        quickly(model, max_epochs=n_trained, datamodule=datamodule)
        assert model.training_summary_.startswith(f"Trained {n_trained} epochs;")
    assert len(model.history_["elbo_train"]) == 5


def test_a_learned_scale_of_a_model_without_data_is_optimised(tissue: AnnData, quickly: Callable) -> None:
    model = IsoSCVI(adata=None, **SMALL, distortion=Penalty(1.0, scale="learned"))
    quickly(model, datamodule=datamodule_of(registered(IsoSCVI, tissue)))
    scale = model.history_["distance_scale_train"].to_numpy(float).ravel()
    assert len(np.unique(scale)) == len(scale) == 3


def test_without_coordinates_the_backbone_is_trained_and_a_warning_says_so(
    make_tissue: Callable, quickly: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the bit with scVI's own likelihood: the closed form of it rounds differently."""
    monkeypatch.setattr(module, "sparse_likelihood", lambda px: px)
    elbo = []
    for cls in (SCVI, IsoSCVI):
        scvi.settings.seed = 7
        datamodule = datamodule_of(registered(SCVI, make_tissue()))
        model = cls(adata=None, **NETWORK)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            quickly(model, datamodule=datamodule)
        found = [one for one in said if issubclass(one.category, IsoviWarning)]
        assert [str(one.message)[:47] for one in found] == (
            [] if cls is SCVI else ["The minibatches of the datamodule have no coord"]
        )
        elbo.append(model.history_["elbo_train"].to_numpy(float))
    assert np.array_equal(*elbo)
    assert "relative_distortion_train" not in model.history_
    assert np.isnan(model.distance_scale)


def test_without_distortion_nothing_is_said_of_coordinates(tissue: AnnData, quickly: Callable) -> None:
    datamodule = datamodule_of(registered(SCVI, tissue))
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsoviWarning)
        for thinning in ("auto", (0.5, 1.0)):
            model = IsoSCVI(adata=None, **NETWORK, distortion=None)
            quickly(model, datamodule=datamodule, thinning=thinning)
            assert model.module.objective is None
            assert model.module.thinning == (None if thinning == "auto" else thinning)


def test_a_registry_tells_sections_and_units(tissue: AnnData, quickly: Callable) -> None:
    manager = registered(IsoSCVI, tissue, section_key="section")
    model = IsoSCVI(registry=manager.registry, **SMALL, distortion=Constraint(0.3, per_section=True))
    quickly(model, datamodule=datamodule_of(manager))
    assert list(model.distance_scale) == ["section_0", "section_1"]
    assert all(np.isfinite(list(model.distance_scale.values())))
    assert model.coordinate_units == IsoSCVI(tissue, **SMALL).coordinate_units
    assert model.module.thinning is not None, "as with AnnData"


def test_what_needs_all_positions_is_refused(tissue: AnnData, quickly: Callable) -> None:
    datamodule = datamodule_of(registered(IsoSCVI, tissue))
    model = IsoSCVI(adata=None, **SMALL, pairs=Neighbors(4))
    with pytest.raises(InputError, match=r"Neighbors\(k=4\).*datamodule.*AllPairs"):
        quickly(model, datamodule=datamodule)
    with pytest.raises(InputError, match=r"per_section=True.*registry.*per_section=False"):
        IsoSCVI(adata=None, **SMALL, distortion=Constraint(0.3, per_section=True))
    with pytest.raises(InputError, match="without AnnData"):
        _ = IsoSCVI(adata=None, **SMALL).coordinate_units
