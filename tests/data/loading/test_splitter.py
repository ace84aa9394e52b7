from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scvi
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField

from isovi.data.fields import CELL, COORDINATES, SECTION, spatial_fields
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.splitter import PatchLoader, PatchSplitter


@pytest.fixture
def manager(adata: AnnData) -> AnnDataManager:
    made = AnnDataManager([LayerField("X", None)], setup_method_args={})
    made.register_fields(adata)
    made.register_new_fields(spatial_fields("spatial", "slice", None))
    return made


@pytest.fixture
def seeded() -> Callable[[int | None], None]:
    """Sets scvi-tools' seed for the time of the test."""
    before = scvi.settings.seed

    def seed(value: int | None) -> None:
        scvi.settings.seed = value

    yield seed
    scvi.settings._seed = before


def splitter_of(manager: AnnDataManager, **kwargs: Any) -> PatchSplitter:
    splitter = PatchSplitter(
        manager, batch_size=8, inclusion=InclusionProbability(manager.adata.n_obs), **kwargs
    )
    splitter.setup()
    return splitter


def cells_of(loader: PatchLoader) -> list[list[int]]:
    return [batch[CELL].ravel().long().tolist() for batch in loader]


def test_minibatches_hold_the_rows_of_their_cells(manager: AnnDataManager) -> None:
    adata = manager.adata
    for batch in splitter_of(manager).train_dataloader():
        cells = batch[CELL].ravel().long().numpy()
        assert np.array_equal(batch["X"].numpy(), adata.X[cells].toarray())
        assert np.array_equal(batch[COORDINATES].numpy(), adata.obsm["_isovi_coordinates"][cells])
        assert batch[SECTION].ravel().tolist() == [
            int(name == "s2") for name in adata.obs["slice"].iloc[cells]
        ]


def test_loaders_cover_their_split_once_in_as_many_batches_as_they_say(manager: AnnDataManager) -> None:
    splitter = splitter_of(manager, train_size=0.7, validation_size=0.2)
    loaders = splitter.train_dataloader(), splitter.val_dataloader(), splitter.test_dataloader()
    splits = splitter.train_idx, splitter.val_idx, splitter.test_idx
    for loader, split in zip(loaders, splits, strict=True):
        batches = cells_of(loader)
        assert len(batches) == len(loader)
        assert sorted(cell for batch in batches for cell in batch) == sorted(split)


def test_training_deals_anew_and_validation_does_not(manager: AnnDataManager) -> None:
    splitter = splitter_of(manager, train_size=0.6)
    train, validation = splitter.train_dataloader(), splitter.val_dataloader()
    assert cells_of(train) != cells_of(train)
    assert cells_of(validation) == cells_of(validation)


def test_every_split_records_its_patches(manager: AnnDataManager) -> None:
    splitter = splitter_of(manager, train_size=0.6)
    inclusion = splitter.data_loader_kwargs["inclusion"]
    cells_of(splitter.train_dataloader())
    assert (inclusion.patch[splitter.train_idx] >= 0).all()
    assert (inclusion.patch[splitter.val_idx] < 0).all()
    of_training = inclusion.patch[splitter.train_idx].clone()
    cells_of(splitter.val_dataloader())
    assert (inclusion.patch >= 0).all()
    assert np.array_equal(inclusion.patch[splitter.train_idx], of_training)


def test_the_seed_of_scvi_tools_decides(manager: AnnDataManager, seeded: Callable) -> None:
    found = []
    for seed in (1, 1, 2):
        seeded(seed)
        found.append(
            cells_of(
                PatchLoader(
                    manager, np.arange(40), inclusion=InclusionProbability(40), batch_size=8, shuffle=True
                )
            )
        )
    assert found[0] == found[1] != found[2]


def test_sparse_tensors_can_be_loaded(manager: AnnDataManager) -> None:
    splitter = splitter_of(manager, load_sparse_tensor=True)
    batch = next(iter(splitter.train_dataloader()))
    cells = batch[CELL].ravel().long().numpy()
    dense = splitter.on_after_batch_transfer(batch, 0)["X"]
    assert np.array_equal(dense.numpy(), manager.adata.X[cells].toarray())


def test_without_validation_there_is_no_loader(manager: AnnDataManager) -> None:
    assert splitter_of(manager, train_size=1.0).val_dataloader() is None
