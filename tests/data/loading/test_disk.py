from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField

from isovi.data import pack
from isovi.data.fields import CELL, COORDINATES, SECTION, spatial_fields
from isovi.data.loading import disk, disk_sampler
from isovi.data.loading.disk import DiskLoader, DiskSplitter
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.sampler import Shard


@pytest.fixture
def manager(adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnDataManager:
    """Counts on disk, of which a buffer holds a few."""
    monkeypatch.setattr(disk_sampler, "RUN", 4)
    monkeypatch.setattr(disk_sampler, "RUNS_PER_BUFFER", 4)
    adata.write_h5ad(tmp_path / "input.h5ad")
    pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr", section_key="slice")
    made = AnnDataManager([LayerField("X", None)], setup_method_args={})
    made.register_fields(pack.open_packed(tmp_path / "store.zarr"))
    made.register_new_fields(spatial_fields("spatial", "slice", None))
    return made


def splitter_of(manager: AnnDataManager, **kwargs: Any) -> DiskSplitter:
    splitter = DiskSplitter(manager, batch_size=4, **kwargs)
    splitter.setup()
    return splitter


def cells_of(loader: DiskLoader) -> list[list[int]]:
    return [batch[CELL].ravel().long().tolist() for batch in loader]


@pytest.mark.parametrize("shuffle", [True, False])
def test_minibatches_hold_the_rows_of_their_cells(manager: AnnDataManager, shuffle: bool) -> None:
    adata = manager.adata
    counts = adata.X[:].toarray()
    for batch in DiskLoader(manager, batch_size=8, shuffle=shuffle):
        cells = batch[CELL].ravel().long().numpy()
        assert np.array_equal(batch["X"].numpy(), counts[cells])
        assert batch["X"].numpy().dtype == np.float32
        assert np.array_equal(batch[COORDINATES].numpy(), adata.obsm["_isovi_coordinates"][cells])
        names = adata.obs["slice"].iloc[cells]
        assert batch[SECTION].ravel().tolist() == [int(name == "s2") for name in names]


@pytest.mark.parametrize("shuffle", [True, False])
def test_lightning_runs_over_a_loader(manager: AnnDataManager, shuffle: bool) -> None:
    """It takes what has certain attributes for a DataLoader, and reads others of it."""
    seen: list[int] = []

    class Counted(BoringModel):
        def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
            seen.extend(batch[CELL].ravel().long().tolist())

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(Counted(), DiskLoader(manager, batch_size=8, shuffle=shuffle), verbose=False)
    assert sorted(seen) == list(range(manager.adata.n_obs))


@pytest.mark.parametrize("patches", [True, False])
def test_loaders_cover_their_split_once_in_as_many_batches_as_they_say(
    manager: AnnDataManager, patches: bool
) -> None:
    splitter = splitter_of(
        manager, train_size=0.7, validation_size=0.2, inclusion=InclusionProbability(40), patches=patches
    )
    loaders = splitter.train_dataloader(), splitter.val_dataloader(), splitter.test_dataloader()
    splits = splitter.train_idx, splitter.val_idx, splitter.test_idx
    for loader, split in zip(loaders, splits, strict=True):
        batches = cells_of(loader)
        assert len(batches) == len(loader)
        assert sorted(cell for batch in batches for cell in batch) == sorted(split)


def test_training_deals_anew_and_validation_does_not(manager: AnnDataManager) -> None:
    splitter = splitter_of(manager, train_size=0.6, inclusion=InclusionProbability(40))
    train, validation = splitter.train_dataloader(), splitter.val_dataloader()
    assert cells_of(train) != cells_of(train)
    assert cells_of(validation) == cells_of(validation)


@pytest.mark.parametrize("together", [4, 8, 1000])
def test_without_dealing_cells_come_in_the_order_asked_for(
    manager: AnnDataManager, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(disk, "READ_TOGETHER", together)
    asked = np.array([7, 3, 39, 3, 0, 12, 11, 10, 9, 30, 1])
    loader = DiskLoader(manager, asked, batch_size=4)
    assert cells_of(loader) == [[7, 3, 39, 3], [0, 12, 11, 10], [9, 30, 1]]
    assert len(loader) == 3
    assert cells_of(DiskLoader(manager, np.arange(40) == 5)) == [[5]]


def test_the_next_shelf_is_read_in_the_background(
    manager: AnnDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    take = pack.StoredRows.take
    monkeypatch.setattr(
        pack.StoredRows, "take", lambda *args: threads.append(threading.current_thread().name) or take(*args)
    )
    loader = DiskLoader(manager, batch_size=4, shuffle=True)
    batches = iter(loader)
    next(batches)
    batches.close()  # waits for the reader
    assert len(threads) == 2
    assert threading.main_thread().name not in threads


def test_an_error_of_the_reader_is_not_lost(manager: AnnDataManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack.StoredRows, "take", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        next(iter(DiskLoader(manager)))


def test_dealing_goes_on_from_a_state(manager: AnnDataManager) -> None:
    loader, other = (DiskLoader(manager, batch_size=4, shuffle=True) for _ in range(2))
    cells_of(loader)
    other.load_state_dict(loader.state_dict())
    assert cells_of(other) == cells_of(loader)
    assert DiskLoader(manager).state_dict() == {}


@pytest.mark.parametrize("shuffle", [True, False])
def test_several_processes_share_the_cells(
    manager: AnnDataManager, monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    monkeypatch.setattr(disk, "drawn_seed", lambda shared: 5 if shared else 0)
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(disk, "shard_of", lambda shared, rank=rank: Shard(rank, 2) if shared else Shard())
        loader = DiskLoader(manager, batch_size=4, shuffle=shuffle, distributed_sampler=True)
        seen += (batches := cells_of(loader))
        assert len(loader) == len(batches) > 0
    assert sorted(np.concatenate(seen).tolist()) == list(range(manager.adata.n_obs))
