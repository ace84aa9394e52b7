"""How likely two spots meet in a minibatch made of patches of tissue."""

from __future__ import annotations

import numpy as np
import torch

from isovi._shapes import CellIndexArray, CellIndices, PairFloats, PairIndices


class Meeting:
    """Patches of the current epoch, shared by the sampler that draws them and the objective.

    Given the patches, two spots of one patch are sure to meet, and two of different patches meet if
    their patches are dealt to the same minibatch. Weighting a pair by the inverse of that
    probability makes the sum over an epoch's minibatches an unbiased estimate of the sum over all
    pairs (Horvitz and Thompson 1952), whatever the patches are.

    Parameters
    ----------
    n_obs
        Number of spots of the tissue.
    """

    def __init__(self, n_obs: int) -> None:
        self.patch = np.full(n_obs, -1, dtype=np.int64)
        self.across = np.ones(n_obs, dtype=np.float32)
        self.share = np.ones(n_obs, dtype=np.float64)

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
        self.patch[cells] = patch
        self.across[cells] = 1.0 / together if together > 0 else 0.0
        self.share[cells] = len(batches) / len(cells) ** 2

    def correction(
        self, source: PairIndices, target: PairIndices, cells: CellIndices
    ) -> tuple[PairFloats, float]:
        """Inverse probability that each pair of a minibatch meets, and minibatches per N².

        Parameters
        ----------
        source, target
            Positions in the minibatch.
        cells
            Index in the tissue of each spot of the minibatch.
        """
        index = cells.cpu().numpy()
        patch = torch.as_tensor(self.patch[index], device=cells.device)
        across = torch.as_tensor(self.across[index], device=cells.device)
        same = patch[source] == patch[target]
        share = float(self.share[index[0]])
        return torch.where(same, torch.ones_like(across[source]), across[source]), share
