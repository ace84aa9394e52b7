"""The row of each cell, by which pair weights are looked up, is exact in every loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from scvi.dataloaders import AnnDataLoader

from isovi.data import pack
from isovi.data.fields import CELL, CELL_COLUMN, spatial_fields
from isovi.data.loading.disk import DiskLoader
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.resident import ResidentManager
from isovi.data.loading.splitter import PatchLoader, ShardLoader

CELLS = np.arange(40)
LOADERS = {
    "scvi-tools": lambda manager: AnnDataLoader(manager, CELLS, batch_size=8),
    "resident": lambda manager: AnnDataLoader(ResidentManager(manager), CELLS, batch_size=8),
    "patches": lambda manager: PatchLoader(manager, CELLS, inclusion=InclusionProbability(40), batch_size=8),
    "shards": lambda manager: ShardLoader(manager, CELLS, batch_size=8, distributed_sampler=False),
    "disk": lambda manager: DiskLoader(manager, CELLS, batch_size=8),
}


def on_disk(adata: AnnData, folder: Path) -> AnnData:
    adata.write_h5ad(folder / "input.h5ad")
    pack.pack(folder / "input.h5ad", folder / "store.zarr", section_key="slice")
    return pack.open_packed(folder / "store.zarr")


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("first", [2**24 - 20, 2**31 - 20, 2**53 - 40])
def test_rows_are_exact_beyond_what_float32_can_hold(
    adata: AnnData, tmp_path: Path, name: str, first: int
) -> None:
    adata = on_disk(adata, tmp_path) if name == "disk" else adata
    manager = AnnDataManager([LayerField("X", None)], setup_method_args={})
    manager.register_fields(adata)
    manager.register_new_fields(spatial_fields("spatial", "slice", None))
    adata.obs[CELL_COLUMN] += first  # as if these were the last cells of many
    make: Callable[[AnnDataManager], Any] = LOADERS[name]
    loaded = [cell for batch in make(manager) for cell in batch[CELL].ravel().long().tolist()]
    assert sorted(loaded) == list(range(first, first + 40))
