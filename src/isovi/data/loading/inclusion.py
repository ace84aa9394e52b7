"""How likely two spots meet in a minibatch made of patches of tissue."""

from __future__ import annotations

import numpy as np
import torch

from isovi._shapes import CellIndexArray, CellIndices, PairFloats, PairIndices


class InclusionProbability:
    """Patches of the current epoch, shared by the sampler that draws them and the objective.

    Given the patches, two spots of one patch are sure to meet, and two of different patches meet if
    their patches are dealt to the same minibatch. Where minibatches are dealt buffer by buffer, patches of
    different runs must first come to the same buffer. Weighting a pair by the inverse of that
    probability makes the sum over an epoch's minibatches an unbiased estimate of the sum over all
    pairs (Horvitz and Thompson 1952), whatever the patches are.

    Parameters
    ----------
    n_obs
        Number of spots of the tissue.

    Attributes
    ----------
    patch, run, across, apart, share
        What is known of each spot, on the device of the minibatches, shape ``(cell,)``.
    """

    def __init__(self, n_obs: int) -> None:
        self.patch = torch.full((n_obs,), -1, dtype=torch.int32)
        self.run = torch.zeros(n_obs, dtype=torch.int32)
        self.across, self.apart, self.share = torch.ones(3, n_obs)

    def record(self, cells: CellIndexArray, patch: np.ndarray, batches: list[np.ndarray]) -> None:
        """Note the patches of one split and how they were dealt.

        Parameters
        ----------
        cells
            Index in the tissue of each spot of the split.
        patch
            Patch of each of these spots.
        batches
            Patches of each minibatch.
        """
        dealt = np.array([len(batch) for batch in batches], dtype=float)
        n_patches = dealt.sum()
        together = (dealt * (dealt - 1)).sum() / max(n_patches * (n_patches - 1), 1.0)
        self.record_buffer(cells, patch, 0, together, 1.0, len(batches) / len(cells) ** 2)

    def record_buffer(
        self,
        cells: CellIndexArray,
        patch: np.ndarray,
        run: np.ndarray | int,
        in_batch: float,
        in_buffer: float,
        share: float,
    ) -> None:
        """Note the patches of one buffer; only cells of one buffer can meet.

        Parameters
        ----------
        cells
            Index in the tissue of each spot of the buffer.
        patch, run
            Patch of each of these spots, and the run of rows that it is a part of.
        in_batch
            Chance that two patches of the buffer come into one minibatch.
        in_buffer
            Chance that two runs come to one buffer.
        share
            Minibatches of the epoch per N².
        """
        device = self.patch.device
        rows = torch.as_tensor(cells, device=device)
        self.patch[rows] = torch.as_tensor(patch, dtype=torch.int32, device=device)
        self.run[rows] = torch.as_tensor(run, dtype=torch.int32, device=device)
        self.share[rows] = share
        self.across[rows] = 1.0 / in_batch if in_batch > 0 else 0.0
        self.apart[rows] = 1.0 / in_buffer if in_buffer > 0 else 0.0

    def correction(
        self, source: PairIndices, target: PairIndices, cells: CellIndices
    ) -> tuple[PairFloats, torch.Tensor]:
        """Inverse probability that each pair of a minibatch meets, and minibatches per N², shape ``()``.

        Parameters
        ----------
        source, target
            Positions in the minibatch.
        cells
            Index in the tissue of each spot of the minibatch.
        """
        if self.patch.device != cells.device:
            vars(self).update({name: values.to(cells.device) for name, values in vars(self).items()})
        patch, run, across, apart = (
            values[cells] for values in (self.patch, self.run, self.across, self.apart)
        )
        factor = torch.where(run[source] == run[target], across[source], (across * apart)[source])
        factor = torch.where(patch[source] == patch[target], torch.ones_like(factor), factor)
        return factor, self.share[cells[:1]].squeeze(0)
