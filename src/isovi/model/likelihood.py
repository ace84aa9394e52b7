"""Count likelihoods that spend their logarithmic gamma functions on non-zero counts only.

The gamma terms of a negative binomial vanish at a count of zero, and 70 to 99 % of spatial counts are zero.
The values are those of :mod:`scvi.distributions`; only the work differs.
"""

from __future__ import annotations

from typing import Any

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.nn.functional import softplus

_EPS = 1e-8  # as in scvi.distributions


class SparseNegativeBinomial(NegativeBinomial):
    """:class:`scvi.distributions.NegativeBinomial` with a cheaper ``log_prob``."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log likelihood of each count, shape as ``value``."""
        log_sum = (self.theta + self.mu + _EPS).log()
        at_zero = self.theta * ((self.theta + _EPS).log() - log_sum)
        return _with_counts(at_zero, at_zero, log_sum, self.mu, self.theta, value)


class SparseZeroInflatedNegativeBinomial(ZeroInflatedNegativeBinomial):
    """:class:`scvi.distributions.ZeroInflatedNegativeBinomial` with a cheaper ``log_prob``."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log likelihood of each count, shape as ``value``."""
        log_sum = (self.theta + self.mu + _EPS).log()
        odds = -self.zi_logits + self.theta * ((self.theta + _EPS).log() - log_sum)
        inflated = _with_counts(softplus(odds), odds, log_sum, self.mu, self.theta, value)
        return inflated - softplus(-self.zi_logits)


def sparse_likelihood(px: Any) -> Any:
    """The same distribution with the cheaper ``log_prob``, where there is one."""
    if type(px) is ZeroInflatedNegativeBinomial:
        return SparseZeroInflatedNegativeBinomial(
            mu=px.mu, theta=px.theta, zi_logits=px.zi_logits, scale=px.scale, validate_args=False
        )
    if type(px) is NegativeBinomial:
        return SparseNegativeBinomial(mu=px.mu, theta=px.theta, scale=px.scale, validate_args=False)
    return px


def _with_counts(
    zero: torch.Tensor,
    base: torch.Tensor,
    log_sum: torch.Tensor,
    mu: torch.Tensor,
    theta: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """``zero``, with ``base`` plus the terms of a positive count put where the count is positive."""
    value = value.expand_as(zero)
    where = value.reshape(-1).nonzero().squeeze(1)
    count, mean, total, start = (
        part.expand_as(zero).reshape(-1)[where] for part in (value, mu, log_sum, base)
    )
    size = theta[where % theta.shape[0]] if theta.dim() == 1 else theta.expand_as(zero).reshape(-1)[where]
    gammas = torch.lgamma(count + size) - torch.lgamma(size) - torch.lgamma(count + 1)
    positive = start + count * ((mean + _EPS).log() - total) + gammas
    return zero.reshape(-1).index_copy(0, where, positive).view_as(zero)
