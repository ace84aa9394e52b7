"""Minibatches made of patches of tissue, so that near spots meet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from isovi._shapes import CellIndexArray, CoordinateArray
from isovi.errors import InputError
from isovi.geometry.meeting import Meeting

PATCHES_PER_BATCH = 4  # far pairs meet between patches, near ones within


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
        Spots of a minibatch, kept to within a patch's rounding.
    meeting
        Where the patches of the epoch are recorded for the objective.
    rng
        The caller's random generator.
    shuffle
        Cut and deal anew each epoch; otherwise once.

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
        meeting: Meeting,
        rng: np.random.Generator,
        shuffle: bool = True,
    ) -> None:
        if batch_size < PATCHES_PER_BATCH:
            raise InputError(
                f"batch_size={batch_size} was asked for.",
                f"Minibatches of patches need at least {PATCHES_PER_BATCH} spots.",
                "Give a larger batch_size, such as 128.",
            )
        self.coordinates = np.nan_to_num(coordinates)
        self.section, self.cells, self.meeting, self.rng, self.shuffle = section, cells, meeting, rng, shuffle
        sizes = np.unique(section, return_counts=True)[1]
        self.patches_of = np.maximum(np.round(sizes * PATCHES_PER_BATCH / batch_size), 1).astype(int)
        self.n_batches = max(round(self.patches_of.sum() / PATCHES_PER_BATCH), 1)
        self._kept: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._kept is None or self.shuffle:
            self._kept = self._deal()
        yield from self._kept

    def _deal(self) -> list[np.ndarray]:
        patches = self._cut()
        dealt = np.array_split(self.rng.permutation(len(patches)), self.n_batches)
        label = np.empty(len(self.cells), dtype=np.int64)
        for number, members in enumerate(patches):
            label[members] = number
        self.meeting.record(self.cells, label, dealt)
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
