from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from scvi.dataloaders import AnnDataLoader, DataSplitter, SemiSupervisedDataSplitter
from torch.utils.data import Subset

from isovi.data.fields import spatial_fields
from isovi.data.loading.nonzero_cache import nonzeros, remember
from isovi.data.loading.resident import CountRows, CountTensors, ResidentDataset, ResidentManager, resident

CPU = torch.device("cpu")


def managed(adata: AnnData) -> AnnDataManager:
    made = AnnDataManager([LayerField("X", None)], setup_method_args={})
    made.register_fields(adata)
    made.register_new_fields(spatial_fields("spatial", "slice", None))
    return made


@pytest.fixture
def manager(adata: AnnData) -> AnnDataManager:
    return managed(adata)


def same_batch(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_minibatches_are_those_of_scvi_tools(adata: AnnData, layout: Callable) -> None:
    adata.X = layout(adata.X.toarray())
    manager = managed(adata)
    rows = np.array([5, 0, 17, 5])
    loaders = [AnnDataLoader(one, rows, batch_size=3) for one in (ResidentManager(manager), manager)]
    for ours, theirs in zip(*loaders, strict=True):
        same_batch(ours, theirs)


@pytest.mark.parametrize("indices", [3, [3, 1], np.array([3, 1]), slice(2, 9, 3), slice(-2, None)])
def test_cells_are_indexed_as_in_scvi_tools(manager: AnnDataManager, indices: Any) -> None:
    theirs = manager.create_torch_dataset()
    ours = ResidentDataset.of(theirs)
    assert len(ours) == len(theirs)
    same_batch(ours[indices], {key: torch.as_tensor(value) for key, value in theirs[indices].items()})


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("place", [lambda rows: rows, lambda rows: rows.to(CPU)], ids=["memory", "device"])
def test_minibatches_know_their_nonzeros(place: Callable, canonical: bool) -> None:
    entries = (np.array([1.0, 2, 3, 4]), np.array([3, 1, 0, 2]), np.array([0, 2, 2, 4]))
    if not canonical:
        entries = (np.array([1.0, 2, 0, 4]), np.array([1, 1, 0, 2]), np.array([0, 2, 2, 4]))
    matrix = sp.csr_matrix(entries, shape=(3, 5))
    if canonical:
        matrix.sort_indices()
    rows = place(CountRows(matrix, np.float32))
    dense = rows[torch.tensor([2, 1, 0])]
    assert isinstance(rows, CountRows | CountTensors)
    assert np.array_equal(dense.numpy(), matrix.toarray()[[2, 1, 0]])
    assert sorted(nonzeros(dense).tolist()) == np.flatnonzero(dense.numpy()).tolist()
    assert hasattr(dense, "_isovi_nonzeros")


def test_a_minibatch_converts_no_index_of_the_rest() -> None:
    """Index arrays of two types, as some files have them: scipy would convert all of the longer one."""
    matrix = sp.random(20_000, 50, 0.1, format="csr", random_state=0, dtype=np.float32)
    matrix.indptr = matrix.indptr.astype(np.int64)
    rows, chosen = CountRows(matrix, np.float32), torch.tensor([3, 19_999, 0, 3])
    tracemalloc.start()
    found = rows[chosen]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found.numpy(), matrix[chosen.numpy()].toarray())
    assert peak < matrix.indices.nbytes / 10


def test_what_is_remembered_of_a_tensor_ends_when_it_is_written_to() -> None:
    values = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    remember(values, torch.tensor([3]))
    assert nonzeros(values).tolist() == [3]
    values[1, 0] = 5
    assert nonzeros(values).tolist() == [1, 2]
    assert nonzeros(values.clone() * 0).tolist() == []
    with torch.inference_mode():
        assert nonzeros(torch.eye(2)).tolist() == [0, 3]


def test_data_in_memory_is_shared_not_copied(manager: AnnDataManager) -> None:
    field = ResidentDataset.of(manager.create_torch_dataset()).fields["X"]
    assert np.shares_memory(field.matrix.data, manager.adata.X.data)


def test_read_only_data_is_copied(manager: AnnDataManager) -> None:
    """Columns of pandas 3 are read-only, and torch warns of a tensor over them."""
    dataset = manager.create_torch_dataset()
    for name, data in dataset.data.items():
        if isinstance(data, np.ndarray):
            data.setflags(write=False)
            field = ResidentDataset.of(dataset).fields[name]
            assert np.array_equal(field, data) and not np.shares_memory(field.numpy(), data)


def test_backed_data_is_loaded_as_before(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "backed.h5ad")
    backed = anndata.read_h5ad(tmp_path / "backed.h5ad", backed="r")
    made = ResidentManager(managed(backed))
    assert not isinstance(made.create_torch_dataset(), ResidentDataset)


def test_some_fields_or_sparse_tensors_are_loaded_as_before(manager: AnnDataManager) -> None:
    made = ResidentManager(manager)
    assert not isinstance(made.create_torch_dataset(data_and_attributes=["X"]), ResidentDataset)
    assert not isinstance(made.create_torch_dataset(load_sparse_tensor=True), ResidentDataset)
    assert isinstance(made.create_torch_dataset(), ResidentDataset)
    assert isinstance(made.create_torch_dataset([1, 2]), Subset)


def test_data_without_room_on_a_device_stays_in_memory(manager: AnnDataManager) -> None:
    dataset = ResidentDataset.of(manager.create_torch_dataset())
    assert dataset.to(torch.device("meta")).device == CPU  # a device of unknown size
    dataset.n_obs, field = 1, dataset.fields["X"]
    assert dataset.n_bytes >= field.nbytes > 0


def test_the_splitter_deals_as_without(manager: AnnDataManager) -> None:
    batches = []
    for cls in (DataSplitter, resident(DataSplitter)):
        scvi.settings.seed = 3
        splitter = cls(manager, batch_size=16)
        splitter.setup()
        batches.append(list(splitter.train_dataloader()))
    for theirs, ours in zip(*batches, strict=True):
        same_batch(ours, theirs)
    assert isinstance(splitter.train_dataloader().dataset.dataset, ResidentDataset)
    splitter.teardown()
    assert splitter.adata_manager._resident is None


def test_the_class_keeps_its_name_which_scvi_tools_asks_for() -> None:
    for cls in (DataSplitter, SemiSupervisedDataSplitter):
        assert resident(cls).__name__ == cls.__name__
        assert issubclass(resident(cls), cls)
        assert resident(cls) is resident(cls)
