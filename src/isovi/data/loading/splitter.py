"""Loaders that draw patches or the share of one process, given to scvi-tools' DataSplitter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader, DataSplitter
from torch.utils.data import default_convert

from isovi.data.fields import COORDINATES, SECTION
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.sampler import PatchBatchSampler, Shard, ShardBatchSampler


class SampledLoader(AnnDataLoader):
    """AnnDataLoader whose sampler yields minibatches, and whose draws can be gone on with.

    Parameters
    ----------
    adata_manager, indices
        As for :class:`scvi.dataloaders.AnnDataLoader`.
    sampler
        Yields arrays of positions within ``indices``; its generator ``rng`` is the loader's state.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | np.ndarray,
        sampler: PatchBatchSampler | ShardBatchSampler,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata_manager, indices=indices, sampler=sampler, collate_fn=_only, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """State of the sampler's generator between two epochs."""
        return {"rng": self.sampler.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on drawing from a state."""
        self.sampler.rng.bit_generator.state = state["rng"]


class PatchLoader(SampledLoader):
    """Loader of minibatches that are made of patches of tissue.

    Parameters
    ----------
    adata_manager, indices, batch_size, shuffle
        As for :class:`scvi.dataloaders.AnnDataLoader`.
    inclusion
        Shared with the objective; see :class:`isovi.data.loading.inclusion.InclusionProbability`.
    distributed_sampler
        Whether the minibatches are shared among the processes that train together.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | np.ndarray,
        *,
        inclusion: InclusionProbability,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        distributed_sampler: bool = False,
        **kwargs: Any,
    ) -> None:
        del drop_last  # every spot is used
        cells = np.asarray(indices)
        sampler = PatchBatchSampler(
            np.asarray(adata_manager.get_from_registry(COORDINATES))[cells],
            np.asarray(adata_manager.get_from_registry(SECTION)).ravel()[cells],
            cells,
            batch_size=batch_size,
            inclusion=inclusion,
            rng=np.random.default_rng(drawn_seed(distributed_sampler)),
            shuffle=shuffle,
            shard=shard_of(distributed_sampler),
        )
        super().__init__(adata_manager, indices, sampler, **kwargs)


class ShardLoader(SampledLoader):
    """Loader of one process's share of random minibatches.

    scvi-tools' own sampler for several processes repeats spots until each has equally many.

    Parameters
    ----------
    adata_manager, indices, batch_size, shuffle
        As for :class:`scvi.dataloaders.AnnDataLoader`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | np.ndarray,
        *,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        distributed_sampler: bool = True,
        **kwargs: Any,
    ) -> None:
        del drop_last  # every spot is used
        sampler = ShardBatchSampler(
            len(indices),
            batch_size=batch_size,
            shard=shard_of(distributed_sampler),
            rng=np.random.default_rng(drawn_seed(distributed_sampler)),
            shuffle=shuffle,
        )
        super().__init__(adata_manager, indices, sampler, **kwargs)


class PatchSplitter(DataSplitter):
    """DataSplitter with :class:`PatchLoader` for training and validation."""

    data_loader_cls = PatchLoader


class ShardSplitter(DataSplitter):
    """DataSplitter with :class:`ShardLoader` for training and validation."""

    data_loader_cls = ShardLoader


def shard_of(shared: bool) -> Shard:
    """Which of the processes this is; the only one unless the minibatches are shared."""
    if not shared:
        return Shard()
    return Shard(torch.distributed.get_rank(), torch.distributed.get_world_size())


def drawn_seed(shared: bool) -> int:
    """A seed from torch's generator, as its own samplers draw it; the same for all ranks that share."""
    drawn = [int(torch.randint(2**63 - 1, ()))]
    if shared:
        torch.distributed.broadcast_object_list(drawn)
    return drawn[0]


def _only(batches: list[Any]) -> Any:
    """The one minibatch that the sampler's array of indices stands for."""
    (batch,) = batches
    return default_convert(batch)
