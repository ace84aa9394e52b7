"""Training data as tensors on the device, counts in sparse form: a minibatch is one gather."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scvi import settings
from scvi.data import AnnDataManager, AnnTorchDataset
from torch.utils.data import Dataset, Subset

from isovi.data.loading.nonzero_cache import remember

SHARE_OF_DEVICE = 0.5  # of the free memory of an accelerator that the data may take


class CountRows:
    """Rows of a sparse matrix in memory, as dense minibatches that know where their counts are.

    Parameters
    ----------
    matrix
        Shape ``(cell, gene)``; its arrays are shared where their type allows it, not copied.
    dtype
        Of the minibatches.
    """

    def __init__(self, matrix: sp.csr_matrix, dtype: type) -> None:
        self.matrix = matrix.astype(dtype, copy=False)
        # Else positions would not tell the non-zeros: an entry may be zero, or be there twice.
        self.positive = bool(matrix.has_canonical_format and matrix.data.all())

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(part.nbytes for part in (self.matrix.data, self.matrix.indices, self.matrix.indptr))

    def to(self, device: torch.device) -> CountTensors:
        """The same on another device."""
        return CountTensors(self, device)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Dense rows, shape ``(len(rows), gene)``.

        Not by indexing the matrix: where the types of its two index arrays differ, scipy would convert all
        of them for each minibatch.
        """
        chosen, n_columns = rows.numpy(), self.matrix.shape[1]
        first = self.matrix.indptr[chosen]
        sizes = self.matrix.indptr[chosen + 1] - first
        starts = np.cumsum(sizes) - sizes
        entry = np.repeat(first - starts, sizes) + np.arange(sizes.sum())
        where = np.repeat(np.arange(len(chosen)) * n_columns, sizes) + self.matrix.indices[entry]
        flat = np.zeros(len(chosen) * n_columns, dtype=self.matrix.dtype)
        dense = torch.from_numpy(flat.reshape(len(chosen), n_columns))
        if self.positive:
            flat[where] = self.matrix.data[entry]
            remember(dense, torch.from_numpy(where))
        else:
            np.add.at(flat, where, self.matrix.data[entry])
        return dense


class CountTensors:
    """:class:`CountRows` on an accelerator."""

    def __init__(self, rows: CountRows, device: torch.device) -> None:
        self.n_columns, self.positive = rows.matrix.shape[1], rows.positive
        parts = (rows.matrix.indptr.astype(np.int64), rows.matrix.indices, rows.matrix.data)
        self.starts, self.columns, self.values = (torch.as_tensor(part, device=device) for part in parts)
        self.sizes = np.diff(rows.matrix.indptr)  # beside the device, which is then not asked for them

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Dense rows, shape ``(len(rows), gene)``; the rows are on the host."""
        n_entries = int(self.sizes[rows.numpy()].sum())
        rows = _sent(rows, self.starts.device)
        first = self.starts[rows]
        sizes = self.starts[rows + 1] - first
        row = torch.repeat_interleave(sizes, output_size=n_entries)
        entry = (first - sizes.cumsum(0) + sizes)[row] + torch.arange(len(row), device=row.device)
        where = row * self.n_columns + self.columns[entry]
        dense = self.values.new_zeros(len(rows) * self.n_columns).index_add_(0, where, self.values[entry])
        dense = dense.view(len(rows), self.n_columns)
        if self.positive:
            remember(dense, where)
        return dense


class ResidentDataset(Dataset):
    """What :class:`scvi.data.AnnTorchDataset` hands out, from tensors that are ready.

    Parameters
    ----------
    fields
        Rows of every registered field.
    n_obs
        Number of cells.
    """

    def __init__(self, fields: dict[str, Any], n_obs: int) -> None:
        self.fields, self.n_obs, self.device = fields, n_obs, torch.device("cpu")

    @classmethod
    def of(cls, dataset: AnnTorchDataset) -> ResidentDataset | None:
        """The dataset in memory; ``None`` where it has a field that is not there already."""
        if dataset.load_sparse_tensor or dataset.adata_manager.adata.isbacked:
            return None
        fields = {}
        for key, dtype in dataset.keys_and_dtypes.items():
            fields[key] = _rows(dataset.data[key], dtype)
            if fields[key] is None:
                return None
        return cls(fields, len(dataset))

    @property
    def n_bytes(self) -> int:
        """Size of all fields."""
        return sum(field.nbytes for field in self.fields.values())

    def to(self, device: torch.device) -> ResidentDataset:
        """Move the data to the device that trains, if there is room."""
        if device != self.device and not settings.dl_num_workers and self.n_bytes < _room(device):
            self.fields = {key: field.to(device) for key, field in self.fields.items()}
            self.device = device
        return self

    def __len__(self) -> int:
        return self.n_obs

    def __getitem__(self, indices: int | Sequence[Any] | slice | np.ndarray) -> dict[str, torch.Tensor]:
        """A minibatch of the cells."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(self.n_obs))
        rows = torch.from_numpy(np.atleast_1d(np.asarray(indices, dtype=np.int64)))
        there = _sent(rows, self.device)
        return {
            key: field[there if isinstance(field, torch.Tensor) else rows]
            for key, field in self.fields.items()
        }


def _sent(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Rows on the device, without waiting for it."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)


def _rows(data: Any, dtype: type) -> torch.Tensor | CountRows | None:
    if isinstance(data, pd.DataFrame):
        data = data.to_numpy()
    if isinstance(data, np.ndarray):
        return torch.as_tensor(np.require(data, dtype, ["C", "W"]))  # columns of pandas 3 are read-only
    if sp.issparse(data) and data.format == "csr":
        return CountRows(data, dtype)
    return None


def _room(device: torch.device) -> float:
    if device.type == "cuda":
        return SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
    return np.inf if device.type == "cpu" else 0.0


class ResidentManager(AnnDataManager):
    """The manager's twin whose datasets are resident where they can be.

    Parameters
    ----------
    manager
        Of the training data; it is left as it is.
    """

    def __init__(self, manager: AnnDataManager) -> None:
        self._manager, self._device = manager, torch.device("cpu")
        self._resident: ResidentDataset | None = None

    def __getattr__(self, name: str) -> Any:
        """All that is not set here is the manager's."""
        return getattr(vars(self)["_manager"], name)

    def place(self, device: torch.device) -> None:
        """Have datasets made from now on lie on this device, if there is room."""
        self._device = device

    def release(self) -> None:
        """Let go of the data."""
        if self._resident is not None:
            self._resident.fields.clear()
        self._resident = None

    def create_torch_dataset(
        self,
        indices: Any = None,
        data_and_attributes: list[str] | dict[str, Any] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Any:
        """As :meth:`scvi.data.AnnDataManager.create_torch_dataset`."""
        dataset = self._manager.create_torch_dataset(None, data_and_attributes, load_sparse_tensor)
        if data_and_attributes is None:
            self._resident = self._resident or ResidentDataset.of(dataset)
            dataset = dataset if self._resident is None else self._resident.to(self._device)
        return dataset if indices is None else Subset(dataset, indices)


class ResidentData:
    """Mixin over a data splitter of scvi-tools; use :func:`resident`."""

    def __init__(self, adata_manager: AnnDataManager, *args: Any, **kwargs: Any) -> None:
        super().__init__(ResidentManager(adata_manager), *args, **kwargs)  # type: ignore[call-arg]  # the splitter's

    def setup(self, stage: str | None = None) -> None:
        """Split, and learn which device trains."""
        super().setup(stage)
        if self.trainer is not None:
            self.adata_manager.place(self.trainer.strategy.root_device)

    def teardown(self, stage: str | None = None) -> None:
        """Let go of the data."""
        super().teardown(stage)
        self.adata_manager.release()


@functools.cache
def resident(splitter: type) -> type:
    """The splitter's class, under its own name, with its data kept as tensors on the device.

    Data that is not in memory as CSR or dense arrays, or does not fit, is loaded as scvi-tools does it.
    """
    return type(splitter.__name__, (ResidentData, splitter), {"__module__": __name__})
