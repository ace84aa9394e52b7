"""Minibatches for counts on disk: buffers of runs of cells are read together and dealt out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isovi._shapes import CellIndexArray
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.sampler import Shard, require_spots_for_all

RUN = 1024  # cells that are read in one piece
RUNS_PER_BUFFER = 48  # read together and dealt out to minibatches
PATCHES_PER_BATCH = 4


@dataclass(frozen=True)
class ShuffleBuffer:
    """Cells that are in memory together, and the minibatches made of them.

    Attributes
    ----------
    cells
        Rows of the data, ascending.
    batches
        Positions in ``cells`` of each minibatch.
    """

    cells: CellIndexArray
    batches: list[np.ndarray]


class DiskSampler:
    """Every cell exactly once an epoch, read in runs of neighbouring rows.

    The rows of the split are cut into runs of about a thousand at places that change each epoch; runs are
    dealt at random to buffers, and the cells or patches of a buffer to its minibatches. On packed data a
    run is a patch of tissue, and so is a part of a run. Needs O(N) time an epoch.

    Parameters
    ----------
    cells
        Rows of the split.
    batch_size
        Cells of a minibatch, kept to within a patch's rounding.
    patches
        Deal patches of about ``batch_size / 4`` cells, so that near cells meet; else single cells.
    inclusion
        Where is recorded who can meet, for the objective; ``None`` if nobody asks.
    shuffle
        Cut and deal anew each epoch; otherwise alike each time.
    shard
        Which process this is: all deal the runs to buffers alike, and each reads its own buffers, which are
        equally many of about the same size.
    rng
        The caller's random generator; the same in all processes.
    """

    def __init__(
        self,
        cells: CellIndexArray,
        *,
        batch_size: int,
        rng: np.random.Generator,
        patches: bool = False,
        inclusion: InclusionProbability | None = None,
        shuffle: bool = True,
        shard: Shard = Shard(),  # noqa: B008  # frozen
    ) -> None:
        require_spots_for_all(len(cells), shard)
        self.cells, self.inclusion, self.shard = np.sort(cells), inclusion, shard
        self.rng = rng
        self.seed = None if shuffle else int(rng.integers(2**63))
        self.patch = max(batch_size // PATCHES_PER_BATCH, 1) if patches else 1
        self.n_batches = min(max(round(len(cells) / batch_size / shard.count), 1), len(cells) // shard.count)
        self.n_runs = max(round(len(cells) / max(RUN, batch_size)), 1)
        self.n_buffers = -(-self.n_runs // RUNS_PER_BUFFER)
        if shard.count > 1:  # each process has equally many buffers, and each buffer equally many runs
            self.n_buffers = -(-self.n_buffers // shard.count) * shard.count
            of_each = min(-(-self.n_runs // self.n_buffers), len(cells) // self.n_buffers)  # none is empty
            self.n_runs = of_each * self.n_buffers

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[ShuffleBuffer]:
        rng = self.rng if self.seed is None else np.random.default_rng(self.seed)
        runs = np.array_split(np.roll(self.cells, int(rng.integers(len(self.cells)))), self.n_runs)
        dealt = np.array_split(rng.permutation(self.n_runs), self.n_buffers)
        together = _chance([len(buffer) for buffer in dealt])
        draws = [rng] * len(dealt)
        if self.shard.count > 1:  # no process may draw what another does not
            draws = [np.random.default_rng(seed) for seed in rng.integers(2**63, size=len(dealt))]
        mine = slice(self.shard.rank, None, self.shard.count)
        sizes = [sum(len(runs[run]) for run in buffer) for buffer in dealt[mine]]
        ends = np.round(np.cumsum(sizes) * self.n_batches / sum(sizes)).astype(int)
        for buffer, n_batches, own in zip(dealt[mine], np.diff(ends, prepend=0), draws[mine], strict=True):
            yield self._deal([runs[run] for run in buffer], int(n_batches), together, own)

    def _deal(
        self, runs: list[np.ndarray], n_batches: int, together: float, rng: np.random.Generator
    ) -> ShuffleBuffer:
        n_patches = [max(round(len(run) / self.patch), 1) for run in runs]
        starts = np.cumsum([0, *n_patches])
        cells = np.concatenate(runs)
        patch = np.concatenate(
            [
                start + np.arange(len(run)) * n // len(run)
                for run, n, start in zip(runs, n_patches, starts[:-1], strict=True)
            ]
        )
        batches = np.array_split(rng.permutation(starts[-1]), n_batches)
        if self.inclusion is not None:
            share = self.n_batches * self.shard.count / len(self.cells) ** 2
            run = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
            self.inclusion.record_buffer(
                cells, patch, run, _chance([len(b) for b in batches]), together, share
            )
        ascending = np.argsort(cells)
        batch_of_patch = np.empty(starts[-1], dtype=np.int64)
        batch_of_patch[np.concatenate(batches)] = np.repeat(np.arange(n_batches), [len(b) for b in batches])
        batch = batch_of_patch[patch[ascending]]
        members = np.split(
            np.argsort(batch, kind="stable"), np.cumsum(np.bincount(batch, minlength=n_batches))[:-1]
        )
        return ShuffleBuffer(cells[ascending], members)


def _chance(sizes: list[int]) -> float:
    """Chance that two of the dealt things come into one of the hands of these sizes."""
    dealt = np.array(sizes, dtype=float)
    n = dealt.sum()
    return float((dealt * (dealt - 1)).sum() / max(n * (n - 1), 1.0))
