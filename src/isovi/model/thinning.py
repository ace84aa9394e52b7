"""Binomial thinning of counts, on the non-zeros only."""

from __future__ import annotations

import torch

from isovi.data.loading.nonzero_cache import known_nonzeros, nonzeros


def thin(counts: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Binomial thinning of each cell's counts with a share drawn uniformly from ``[low, high]``.

    A cell that would lose every count keeps all of them, since the library size must be positive.

    Parameters
    ----------
    counts
        Shape ``(cell, gene)``.
    low, high
        Range of the share kept, 0 < low <= high <= 1.
    """
    n_cells, n_genes = counts.shape
    share = low + (high - low) * torch.rand(n_cells, device=counts.device)
    where = known_nonzeros(counts)
    if where is None:
        thinned = torch.binomial(counts, share[:, None].expand_as(counts))
        return torch.where(thinned.sum(1, keepdim=True) > 0, thinned, counts)
    cell = where // n_genes
    whole = counts.reshape(-1).index_select(0, where)
    kept = _binomial(whole, share.index_select(0, cell))
    left = torch.zeros_like(share).index_add_(0, cell, kept)
    kept = torch.where(left.index_select(0, cell) > 0, kept, whole)
    return counts.new_zeros(counts.numel()).index_copy_(0, where, kept).view_as(counts)


def _binomial(counts: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Binomial draws; most counts are 1, and on a CPU those need one uniform number only."""
    if _draws_alike(counts):
        return torch.binomial(counts, share)
    kept = (torch.rand_like(share) < share).to(counts.dtype)
    several = nonzeros(counts > 1)
    return kept.index_copy_(0, several, torch.binomial(counts[several], share[several]))


def _draws_alike(counts: torch.Tensor) -> bool:
    """Whether to pick none out: an accelerator would have to be waited for."""
    return counts.device.type != "cpu"
