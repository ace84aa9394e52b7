from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scvi.model import SCANVI, TOTALVI
from scvi.train import AdversarialTrainingPlan, SemiSupervisedTrainingPlan, TrainingPlan

from isovi import InputError, IsoSCVI, IsoVAE, Penalty, preserve_distances
from isovi.data.loading.resident import ResidentDataset
from isovi.model import model as models
from isovi.model import module as modules
from isovi.model import speed
from isovi.model.speed import FusedAdam, logging_by_epoch

SETUPS: dict[type, dict[str, Any]] = {
    scvi.model.SCVI: {},
    SCANVI: {"labels_key": "label", "unlabeled_category": "unknown"},
    TOTALVI: {"protein_expression_obsm_key": "protein"},
}


class Watch(Callback):
    """What a training used."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the end."""
        self.fused = [group["fused"] for group in trainer.optimizers[0].param_groups]
        self.dataset = trainer.train_dataloader.dataset
        while not isinstance(self.dataset, ResidentDataset):
            self.dataset = self.dataset.dataset
        self.plan = type(pl_module)


def without_speed(name: str) -> Any:
    """Turns one of the speed-ups off."""
    return {
        "log": mock.patch.object(models, "logging_by_epoch", lambda plan: plan),
        "data": mock.patch.object(models, "resident", lambda splitter: splitter),
        "likelihood": mock.patch.object(modules, "sparse_likelihood", lambda px: px),
        "adam": mock.patch.object(speed, "_is_open", return_value=False),
    }[name]


def trained(adata: AnnData, quickly: Callable, cls: type = IsoSCVI, **kwargs: Any) -> Any:
    scvi.settings.seed = 1
    adata.obsm["protein"] = np.random.default_rng(0).poisson(5, (adata.n_obs, 4))
    setup = next((SETUPS[base] for base in cls.__mro__ if base in SETUPS), {})
    cls.setup_anndata(adata, section_key="section", **setup)
    asked = Penalty(5.0, scale="learned")  # a profiled λ is a median, which rounding moves to the next pair
    init = {"empirical_protein_background_prior": False} if issubclass(cls, TOTALVI) else {}
    return quickly(cls(adata, n_latent=4, n_hidden=16, distortion=asked, **init), **kwargs)


@pytest.mark.parametrize("name", ["log", "data", "likelihood", "adam"])
def test_what_is_learned_does_not_depend_on_a_speed_up(tissue: AnnData, quickly: Callable, name: str) -> None:
    fast = trained(tissue, quickly, check_val_every_n_epoch=1, early_stopping=False, thinning=None)
    with without_speed(name):
        slow = trained(tissue, quickly, check_val_every_n_epoch=1, early_stopping=False, thinning=None)
    assert fast.history_.keys() == slow.history_.keys()
    for key, values in slow.history_.items():
        assert list(fast.history_[key].index) == list(values.index), key
        np.testing.assert_allclose(
            fast.history_[key].to_numpy(float), values.to_numpy(float), rtol=1e-4, err_msg=key
        )
    np.testing.assert_allclose(
        fast.get_latent_representation(), slow.get_latent_representation(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("backbone", SETUPS)
def test_training_uses_them_with_other_backbones_too(
    tissue: AnnData, quickly: Callable, backbone: type
) -> None:
    watch = Watch()
    model = trained(tissue, quickly, preserve_distances(backbone), max_epochs=2, callbacks=[watch])
    assert not watch.dataset.fields, "released after training"
    assert all(watch.fused)
    assert issubclass(watch.plan, speed.EpochLog)
    assert "_training_plan_cls" not in vars(model) and "_data_splitter_cls" not in vars(model)


def test_the_same_seed_trains_the_same(tissue: AnnData, quickly: Callable) -> None:
    for cls in (IsoSCVI, IsoVAE):
        latents = [trained(tissue, quickly, cls).get_latent_representation() for _ in range(2)]
        assert np.array_equal(*latents)


@pytest.mark.parametrize("chosen", [{"foreach": True}, {"fused": False}, {"foreach": False}])
def test_a_chosen_implementation_is_kept(tissue: AnnData, quickly: Callable, chosen: dict[str, bool]) -> None:
    watch = Watch()

    def create(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-3, **chosen)

    plan = {"optimizer": "Custom", "optimizer_creator": create}
    trained(tissue, quickly, max_epochs=1, plan_kwargs=plan, callbacks=[watch])
    assert not any(watch.fused)


def test_other_optimizers_are_left_alone(tissue: AnnData, quickly: Callable) -> None:
    plan = {"optimizer": "Custom", "optimizer_creator": lambda p: torch.optim.SGD(p, lr=1e-5)}
    with mock.patch.object(
        FusedAdam, "on_train_start", autospec=True, side_effect=FusedAdam.on_train_start
    ) as seen:
        trained(tissue, quickly, max_epochs=1, plan_kwargs=plan)
    (_, trainer, _), _ = seen.call_args
    assert trainer.optimizers[0].param_groups[0]["fused"] is None


def test_an_epoch_cut_short_is_logged(tissue: AnnData, quickly: Callable) -> None:
    model = trained(tissue, quickly, max_epochs=4, max_steps=6)
    assert len(model.history_["relative_distortion_train"]) == len(model.history_["elbo_train"]) == 2
    assert np.isfinite(model.history_["relative_distortion_train"].to_numpy(float)).all()


def test_a_loss_that_is_no_number_ends_the_training(tissue: AnnData, quickly: Callable) -> None:
    with pytest.raises(InputError, match=r"The loss of epoch [12] is nan\. .* lower learning rate"):
        trained(tissue, quickly, plan_kwargs={"lr": 1e25})


def test_numbers_are_logged_from_the_host() -> None:
    """Lightning would send each to the device, and wait for it to come back."""
    logged: list[Any] = []

    class Plan:
        device = torch.device("meta")

        def log(self, _: str, value: Any, **__: Any) -> None:
            logged.append(value)

    plan = logging_by_epoch(Plan)()
    plan.log("kl_weight", 0.5, on_step=True)
    plan.log("kl_weight", 0.5, on_step=True, sync_dist=True)
    assert torch.equal(logged[0], torch.tensor(0.5)) and logged[1] == 0.5


@pytest.mark.parametrize("plan", [TrainingPlan, SemiSupervisedTrainingPlan, AdversarialTrainingPlan])
def test_the_plans_class_keeps_its_name(plan: type) -> None:
    assert logging_by_epoch(plan).__name__ == plan.__name__
    assert issubclass(logging_by_epoch(plan), plan)
    assert logging_by_epoch(plan) is logging_by_epoch(plan)


def test_what_is_logged_can_be_averaged_over_processes() -> None:
    """scvi-tools logs in inference mode, and what is made there cannot be changed later."""
    logged: list[torch.Tensor] = []

    class Plan:
        def log(self, _: str, value: torch.Tensor, **__: Any) -> None:
            logged.append(value.clone())

    with torch.inference_mode():
        logging_by_epoch(Plan)().log("x", torch.ones(1), on_epoch=True, on_step=False)
    assert not logged[0].is_inference() and not logged[0].requires_grad
