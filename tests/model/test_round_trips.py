"""A training step never waits for a number from the device: on a device without values, it could not."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from isovi import Constraint, IsoSCVI, IsoVAE, Penalty
from isovi.data.fields import pair_weights, registered_spots
from isovi.data.loading import resident
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.resident import ResidentDataset
from isovi.data.pack import open_packed, pack
from isovi.graph import Neighbors, SameDomain
from isovi.model import training
from isovi.model.hooks import unchecked_distributions

WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
COPYING = {"_to_copy", "copy_"}
META = torch.device("meta")  # an accelerator that holds no values, so that reading one is an error

MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "a scale for each section": {"distortion": Constraint(per_section=True)},
    "near pairs": {"pairs": Neighbors(4) | SameDomain("domain")},
    "the paper's": {
        "distortion": Penalty(
            1.0, relative=False, normalization="paper", scale="learned", distance="wasserstein"
        )
    },
    "negative binomial": {"gene_likelihood": "nb", "distortion": Constraint(distance="sample", n_place=0)},
}


class Waits(TorchDispatchMode):
    """Notes, while it is active, where a number or a shape comes from values, or a tensor changes device.

    Attributes
    ----------
    found
        Function of isoVI, or of another package if none, and operator, of each.
    seen
        Number of operators looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active, self.seen = True, 0
        self.found: list[tuple[str, str]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if self.active:
            self.seen += 1
            if self._waits(func.overloadpacket.__name__, args, kwargs):
                self.found.append((_caller(), func.overloadpacket.__name__))
        if func is torch.ops.aten.binomial.default and args[0].is_meta:  # torch has it on real devices only
            return torch.empty_like(args[0])
        return func(*args, **kwargs)

    @staticmethod
    def _waits(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
        if name in COPYING:
            given = {tensor.device.type for tensor in args if isinstance(tensor, torch.Tensor)}
            asked = kwargs.get("device")
            return len(given | ({torch.device(asked).type} if asked is not None else set())) > 1
        if name == "repeat_interleave":
            return kwargs.get("output_size") is None
        by_mask = name in ("index", "index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        return name in WAITING or by_mask


def _caller() -> str:
    frames = traceback.extract_stack()
    ours = [frame.name for frame in frames if f"{Path('src', 'isovi')}" in frame.filename]
    return ours[-1] if ours else frames[-3].name


class InSteps(Callback):
    """Has steps looked at, from the first hook of a minibatch to the last but for the end of an epoch."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None], skipped: int = 0) -> None:
        self.begin, self.end, self.skipped = begin, end, skipped

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Begin."""
        if trainer.global_step >= self.skipped:
            self.begin()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """End where numbers are reported; between minibatches, go on with the loader and other callbacks."""
        if trainer.is_last_batch:
            self.end()


def prepared(tissue: AnnData, cls: type = IsoSCVI, **kwargs: Any) -> Any:
    scvi.settings.seed = 0
    cls.setup_anndata(tissue, section_key="section")
    return cls(tissue, n_latent=4, n_hidden=16, **kwargs)


@contextmanager
def looked_at() -> Iterator[tuple[Waits, InSteps]]:
    waits = Waits()
    waits.active = False
    steps = InSteps(lambda: setattr(waits, "active", True), lambda: setattr(waits, "active", False))
    with waits:
        yield waits, steps


@pytest.mark.parametrize("read", [float, bool, lambda one: one[one > 0], torch.unique, torch.nonzero])
def test_reading_a_value_is_noticed(read: Callable) -> None:
    with Waits() as waits:
        read(torch.ones(()) if read in (float, bool) else torch.ones(3))
    assert len(waits.found) == 1


def test_moving_a_tensor_is_noticed_and_a_conversion_is_not() -> None:
    with Waits() as waits:
        torch.ones(3).double()
        assert not waits.found
        torch.ones(3).to(META)
    assert [name for _, name in waits.found] == ["_to_copy"]


@pytest.mark.parametrize("name", MODELS)
def test_no_step_of_a_training_reads_a_value(
    tissue: AnnData, quickly: Callable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before the constraint acts and after; that it does is asked once. What a step logs is of the host."""
    monkeypatch.setattr(training, "WARM_UP_EPOCHS", 1)
    model = prepared(tissue, **MODELS[name])
    with looked_at() as (waits, steps):
        quickly(model, callbacks=[steps], log_every_n_steps=10**6)
    assert waits.seen > 500
    acts = isinstance(model.distortion, Constraint)
    assert waits.found == [("settle", "_local_scalar_dense")] * acts
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_gaussian_and_a_packed_store_are_no_exception(
    tissue: AnnData, quickly: Callable, tmp_path: Path
) -> None:
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    pack(tmp_path / "tissue.h5ad", tmp_path / "tissue.zarr", section_key="section")
    for cls, adata in ((IsoVAE, tissue), (IsoSCVI, open_packed(tmp_path / "tissue.zarr"))):
        model = prepared(adata, cls)
        with looked_at() as (waits, steps):
            quickly(model, callbacks=[steps], log_every_n_steps=10**6)
        assert waits.seen > 500 and not waits.found


@pytest.mark.parametrize("name", MODELS)
def test_a_step_runs_on_a_device_without_values(
    tissue: AnnData, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The second step: with the first, weights and patches of the tissue move to the device, to stay."""
    monkeypatch.setattr(resident, "_room", lambda _: np.inf)
    model = prepared(tissue, **MODELS[name])
    module, objective = model.module, model.module.objective
    data = ResidentDataset.of(model.adata_manager.create_torch_dataset()).to(META)
    objective.weights = pair_weights(tissue, registered_spots(model.adata_manager), model.pairs)
    if model.pairs.local:
        objective.inclusion = InclusionProbability(tissue.n_obs)
        cells = np.arange(tissue.n_obs)
        objective.inclusion.record(cells, cells // 10, np.split(np.arange(16), 4))
    module.thinning = (0.3, 1.0)
    module.to(META).train()
    for _ in range(2):
        minibatch = data[np.arange(64)]
        with Waits() as waits, unchecked_distributions():
            *_, output = module(minibatch, loss_kwargs={"kl_weight": 1.0})
            output.loss.backward()
            objective.ascend()
    assert output.loss.is_meta and waits.seen > 300
    assert not waits.found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_no_step_waits_for_a_gpu(
    tissue: AnnData, quickly: Callable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(training, "WARM_UP_EPOCHS", 10**6)
    model = prepared(tissue, **MODELS[name])
    errors = InSteps(
        lambda: torch.cuda.set_sync_debug_mode("error"),
        lambda: torch.cuda.set_sync_debug_mode("default"),
        skipped=1,
    )
    try:
        quickly(model, callbacks=[errors], accelerator="gpu")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_learns_what_a_cpu_learns(tissue: AnnData, quickly: Callable) -> None:
    """Without what is drawn in training: thinning, dropout and the sample; rounding is all that differs."""
    latents = []
    for accelerator in ("cpu", "gpu"):
        asked = Penalty(5.0, scale="learned")
        model = prepared(tissue, distortion=asked, dropout_rate=0.0)
        model.module.z_encoder.var_eps = 0.0
        with torch.no_grad():
            model.module.z_encoder.var_encoder.bias.fill_(-30.0)  # the sample is the mean
        quickly(model, accelerator=accelerator, thinning=None, early_stopping=False)
        latents.append(model.get_latent_representation())
    np.testing.assert_allclose(*latents, rtol=1e-2, atol=1e-2)
