"""Loaders that draw patches, given to scvi-tools' DataSplitter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scvi import settings
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader, DataSplitter
from torch.utils.data import default_convert

from isovi.data.fields import COORDINATES, SECTION
from isovi.data.sampler import PatchBatchSampler
from isovi.geometry.meeting import Meeting


class PatchLoader(AnnDataLoader):
    """AnnDataLoader whose minibatches are made of patches of tissue.

    Parameters
    ----------
    adata_manager, indices, batch_size, shuffle
        As for :class:`scvi.dataloaders.AnnDataLoader`.
    meeting
        Shared with the objective; see :class:`isovi.geometry.meeting.Meeting`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | np.ndarray,
        *,
        meeting: Meeting,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        distributed_sampler: bool = False,
        **kwargs: Any,
    ) -> None:
        del drop_last, distributed_sampler  # every spot is used, in one process
        cells = np.asarray(indices)
        sampler = PatchBatchSampler(
            np.asarray(adata_manager.get_from_registry(COORDINATES))[cells],
            np.asarray(adata_manager.get_from_registry(SECTION)).ravel()[cells],
            cells,
            batch_size=batch_size,
            meeting=meeting,
            rng=np.random.default_rng(settings.seed),
            shuffle=shuffle,
        )
        super().__init__(adata_manager, indices=indices, sampler=sampler, collate_fn=_only, **kwargs)


class PatchSplitter(DataSplitter):
    """DataSplitter with :class:`PatchLoader` for training and validation."""

    data_loader_cls = PatchLoader


def _only(batches: list[Any]) -> Any:
    """The one minibatch that the sampler's array of indices stands for."""
    (batch,) = batches
    return default_convert(batch)
