"""Minibatches of patches of tissue, so that near spots meet, and shares of several processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from torch.utils.data import Sampler

from isovi._shapes import CellIndexArray, CoordinateArray
from isovi.data.loading.inclusion import InclusionProbability
from isovi.errors import InputError

PATCHES_PER_BATCH = 4  # far pairs meet between patches, near ones within


@dataclass(frozen=True)
class Shard:
    """Which of the processes that train together this is.

    Attributes
    ----------
    rank
        Its number, from zero.
    count
        How many there are.
    """

    rank: int = 0
    count: int = 1


class ShardBatchSampler(Sampler[np.ndarray]):
    """Every spot exactly once an epoch over all processes, in equally many minibatches for each.

    Nothing is repeated or dropped to make ends meet: minibatches differ by a spot in size instead.

    Parameters
    ----------
    n_obs
        Spots of the split.
    batch_size
        Spots of a minibatch of one process at most.
    shard
        Which process this is.
    rng
        Random generator, the same in all processes.
    shuffle
        Deal anew each epoch; otherwise in the order of the split.

    Yields
    ------
    Positions within the split, one array a minibatch.
    """

    def __init__(
        self, n_obs: int, *, batch_size: int, shard: Shard, rng: np.random.Generator, shuffle: bool = True
    ) -> None:
        require_spots_for_all(n_obs, shard)
        self.n_obs, self.shard, self.rng, self.shuffle = n_obs, shard, rng, shuffle
        self.n_batches = ceil(ceil(n_obs / shard.count) / batch_size)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self.rng.permutation(self.n_obs) if self.shuffle else np.arange(self.n_obs)
        batches = np.array_split(order, self.n_batches * self.shard.count)
        yield from batches[self.shard.rank :: self.shard.count]


class PatchBatchSampler(Sampler[np.ndarray]):
    """Every spot exactly once an epoch, in minibatches of a few patches of neighbouring spots.

    Each epoch every section is cut anew by medians along random directions until its patches have
    about ``batch_size / 4`` spots; patches are then dealt to minibatches at random. Needs O(N log N)
    time and O(N) memory an epoch.

    Parameters
    ----------
    coordinates
        Positions of the spots of the split, shape ``(cell, axis)``.
    section
        Section code of each spot.
    cells
        Index in the whole tissue of each spot.
    batch_size
        Spots of a minibatch of one process, kept to within a patch's rounding.
    inclusion
        Where the patches of the epoch are recorded for the objective.
    rng
        The caller's random generator; the same in all processes.
    shuffle
        Cut and deal anew each epoch; otherwise once.
    shard
        Which process this is: all cut and deal alike, and each takes its minibatches.

    Yields
    ------
    Positions within the split, one array a minibatch.
    """

    def __init__(
        self,
        coordinates: CoordinateArray,
        section: CellIndexArray,
        cells: CellIndexArray,
        *,
        batch_size: int,
        inclusion: InclusionProbability,
        rng: np.random.Generator,
        shuffle: bool = True,
        shard: Shard = Shard(),
    ) -> None:
        if batch_size < PATCHES_PER_BATCH:
            raise InputError(
                f"batch_size={batch_size} was asked for.",
                f"Minibatches of patches need at least {PATCHES_PER_BATCH} spots.",
                "Give a larger batch_size, such as 128.",
            )
        require_spots_for_all(len(cells), shard)
        self.coordinates = np.nan_to_num(coordinates)
        self.section, self.cells, self.inclusion, self.rng, self.shuffle = (
            section,
            cells,
            inclusion,
            rng,
            shuffle,
        )
        self.shard = shard
        sizes = np.unique(section, return_counts=True)[1]
        self.patches_of = np.maximum(np.round(sizes * PATCHES_PER_BATCH / batch_size), 1).astype(int)
        while self.patches_of.sum() < shard.count:  # one each at least
            self.patches_of[np.argmax(sizes / self.patches_of)] += 1
        self.n_batches = max(round(self.patches_of.sum() / (PATCHES_PER_BATCH * shard.count)), 1)
        self._kept: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._kept is None or self.shuffle:
            self._kept = self._deal()
        yield from self._kept[self.shard.rank :: self.shard.count]

    def _deal(self) -> list[np.ndarray]:
        patches = self._cut()
        dealt = np.array_split(self.rng.permutation(len(patches)), self.n_batches * self.shard.count)
        label = np.empty(len(self.cells), dtype=np.int64)
        for number, members in enumerate(patches):
            label[members] = number
        self.inclusion.record(self.cells, label, dealt)
        return [np.concatenate([patches[number] for number in batch]) for batch in dealt]

    def _cut(self) -> list[np.ndarray]:
        patches: list[np.ndarray] = []
        for code, n_patches in zip(np.unique(self.section), self.patches_of, strict=True):
            stack = [(np.flatnonzero(self.section == code), int(n_patches))]
            while stack:
                members, n = stack.pop()
                if n == 1:
                    patches.append(members)
                else:
                    stack.extend(self._halve(members, n))
        return patches

    def _halve(self, members: np.ndarray, n: int) -> list[tuple[np.ndarray, int]]:
        direction = self.rng.normal(size=self.coordinates.shape[1])
        along = self.coordinates[members] @ direction
        cut = round(len(members) * (n // 2) / n)
        order = np.argpartition(along, cut)
        return [(members[order[:cut]], n // 2), (members[order[cut:]], n - n // 2)]


def require_spots_for_all(n_obs: int, shard: Shard) -> None:
    """Refuse fewer spots than processes.

    Raises
    ------
    InputError
        If there are.
    """
    if n_obs < shard.count:
        raise InputError(
            f"{n_obs} spots are to be shared by {shard.count} processes.",
            "Each needs at least one, for training and for validation.",
            "Use fewer devices and nodes.",
        )
