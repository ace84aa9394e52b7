"""Loaders for counts that stay on disk, used by scvi-tools in place of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter

from isovi.data.loading.disk_sampler import DiskSampler, ShuffleBuffer
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.splitter import drawn_seed, shard_of
from isovi.data.pack import StoredRows, is_on_disk

READ_TOGETHER = 2**15  # cells read at a time in a given order


class DiskLoader:
    """Minibatches of counts on disk, read ahead in the background.

    Parameters
    ----------
    adata_manager, indices, batch_size
        As for :class:`scvi.dataloaders.AnnDataLoader`.
    shuffle
        Draw new minibatches each epoch. Without it, and without ``inclusion``, cells come in the order of
        ``indices``.
    inclusion, patches
        As for :class:`isovi.data.loading.disk_sampler.DiskSampler`.
    distributed_sampler
        Whether the minibatches are shared among the processes that train together; each then reads its own
        part of the cells in an epoch.
    **_
        Arguments of other loaders (workers, pinned memory), which are ignored.

    Yields
    ------
    Tensors of each minibatch by their registered names, as from AnnDataLoader.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        batch_size: int = 128,
        shuffle: bool = False,
        inclusion: InclusionProbability | None = None,
        patches: bool = False,
        distributed_sampler: bool = False,
        **_: Any,
    ) -> None:
        self.indices = np.arange(adata_manager.adata.n_obs) if indices is None else np.asarray(indices)
        if self.indices.dtype == bool:
            self.indices = np.flatnonzero(self.indices)
        self.batch_size = batch_size
        self.rows = StoredRows(adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY))
        others = [key for key in adata_manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        self.other_fields = adata_manager.create_torch_dataset(data_and_attributes=others)
        # not self.sampler: Lightning takes what has one for a DataLoader and reads its batch_sampler
        self.buffers: DiskSampler | None = None
        if shuffle or inclusion is not None or distributed_sampler:
            rng = np.random.default_rng(drawn_seed(distributed_sampler))
            how: dict[str, Any] = {"patches": patches, "inclusion": inclusion, "shuffle": shuffle}
            how["shard"] = shard_of(distributed_sampler)
            self.buffers = DiskSampler(self.indices, batch_size=batch_size, rng=rng, **how)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size) if self.buffers is None else len(self.buffers)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        buffers: Iterable[ShuffleBuffer] = self._in_order() if self.buffers is None else self.buffers
        for buffer, counts in self._ahead(buffers):
            for batch in buffer.batches:
                yield self._tensors(counts[batch], buffer.cells[batch])

    def state_dict(self) -> dict[str, Any]:
        """State of the random generator between two epochs."""
        return {} if self.buffers is None else {"rng": self.buffers.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        if self.buffers is not None:
            self.buffers.rng.bit_generator.state = state["rng"]

    def _in_order(self) -> Iterator[ShuffleBuffer]:
        """The cells in the order of ``indices``, many read at a time."""
        step = max(READ_TOGETHER // self.batch_size, 1) * self.batch_size
        for start in range(0, len(self.indices), step):
            cells, place = np.unique(self.indices[start : start + step], return_inverse=True)
            yield ShuffleBuffer(cells, np.split(place, range(self.batch_size, len(place), self.batch_size)))

    def _ahead(self, buffers: Iterable[ShuffleBuffer]) -> Iterator[tuple[ShuffleBuffer, sparse.csr_matrix]]:
        """Buffers with their counts; the next is read while one is in use."""
        with ThreadPoolExecutor(1) as reader:
            coming: tuple[ShuffleBuffer, Any] | None = None
            for buffer in buffers:
                ready, coming = coming, (buffer, reader.submit(self.rows.take, buffer.cells))
                if ready is not None:
                    yield ready[0], ready[1].result()
                del ready
            if coming is not None:
                yield coming[0], coming[1].result()

    def _tensors(self, counts: sparse.csr_matrix, cells: np.ndarray) -> dict[str, torch.Tensor]:
        dense = counts.astype(np.float32, copy=False).toarray()
        others = {key: torch.as_tensor(value) for key, value in self.other_fields[cells].items()}
        return {REGISTRY_KEYS.X_KEY: torch.from_numpy(dense), **others}


class DiskSplitter(DataSplitter):
    """DataSplitter whose loaders read from disk."""

    data_loader_cls = DiskLoader


def counts_on_disk(adata_manager: AnnDataManager) -> bool:
    """Whether the registered counts are on disk."""
    registry = adata_manager.data_registry
    return REGISTRY_KEYS.X_KEY in registry and is_on_disk(
        adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    )
