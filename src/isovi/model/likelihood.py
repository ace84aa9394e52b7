"""Count likelihoods in closed form: few passes over a minibatch, logarithmic gamma functions on non-zeros only.

The gamma terms of a negative binomial vanish at a count of zero, and 70 to 99 % of spatial counts are zero.
Gradients are written out and computed along with the values, which spares autograd a dozen arrays and as many
passes over memory. Values and gradients are those of :mod:`scvi.distributions`; only the work differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from isovi.data.nonzeros import nonzeros

_EPS = 1e-8  # as in scvi.distributions


class SparseNegativeBinomial(NegativeBinomial):
    """:class:`scvi.distributions.NegativeBinomial` with a cheaper ``log_prob``."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log likelihood of each count; differentiable once, in the parameters only."""
        return _LogProb.apply(value, *torch.broadcast_tensors(self.mu, self.theta), None)


class SparseZeroInflatedNegativeBinomial(ZeroInflatedNegativeBinomial):
    """:class:`scvi.distributions.ZeroInflatedNegativeBinomial` with a cheaper ``log_prob``."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log likelihood of each count; differentiable once, in the parameters only."""
        return _LogProb.apply(value, *torch.broadcast_tensors(self.mu, self.theta, self.zi_logits))


def sparse_likelihood(px: Any) -> Any:
    """The same distribution with the cheaper ``log_prob``, where there is one."""
    if type(px) is ZeroInflatedNegativeBinomial:
        return SparseZeroInflatedNegativeBinomial(
            mu=px.mu, theta=px.theta, zi_logits=px.zi_logits, scale=px.scale, validate_args=False
        )
    if type(px) is NegativeBinomial:
        return SparseNegativeBinomial(mu=px.mu, theta=px.theta, scale=px.scale, validate_args=False)
    return px


class _LogProb(torch.autograd.Function):
    """Log likelihood of every entry, with its derivatives kept for the backward pass.

    Per entry, with mean μ, inverse dispersion θ and a = θ log(θ / (θ + μ)): a count of zero has the log
    likelihood a, a positive one a plus the terms of :class:`_Positive`. With logits π of zero inflation it is
    softplus(a - π) - softplus(-π) at zero, and a - π - softplus(-π) plus the same terms at a positive count.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        mu: torch.Tensor,
        theta: torch.Tensor,
        logits: torch.Tensor | None,
    ) -> torch.Tensor:
        mu, theta = mu.contiguous(), _narrow(theta)
        total = mu + (theta + _EPS)
        positive = _Positive.of(value, mu, theta, total)
        found, d_mu, d_theta = _at_zero(theta, total)
        d_logits = None
        if logits is not None:
            found, genuine, d_logits = _inflate(found, logits, positive.where)
            d_mu *= genuine
            d_theta *= genuine
        for entries, terms in ((found, positive.terms), (d_mu, positive.d_mu), (d_theta, positive.d_theta)):
            entries.view(-1).index_add_(0, positive.where, terms)
        ctx.save_for_backward(d_mu, d_theta, d_logits)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *(None if part is None else gradient * part for part in ctx.saved_tensors)


class _Positive(NamedTuple):
    """What a positive count x adds: x log(μ / (θ + μ)) + log Γ(x + θ) / (Γ(θ) x!), and its derivatives."""

    where: torch.Tensor  # position of each positive count in the flattened minibatch
    terms: torch.Tensor
    d_mu: torch.Tensor
    d_theta: torch.Tensor

    @classmethod
    def of(cls, value: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, total: torch.Tensor) -> _Positive:
        value = value if value.shape == mu.shape else value.expand_as(mu)  # the tensor itself may know its non-zeros
        where = nonzeros(value)
        count = value.take(where).to(mu.dtype)
        size = theta.expand_as(mu).take(where)

        def of_size(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            shared = theta.numel() < len(where)
            return function(theta).expand_as(mu).take(where) if shared else function(size)

        mean, sums = mu.take(where) + _EPS, total.take(where)
        share = count / sums
        terms = count * (mean / sums).log() + torch.lgamma(count + size)
        terms -= of_size(torch.lgamma) + torch.lgamma(count + 1)
        return cls(where, terms, count / mean - share, torch.digamma(count + size) - of_size(torch.digamma) - share)


def _at_zero(theta: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """θ log(θ / (θ + μ)), and its derivatives in μ and θ; overwrites ``total``, θ + μ."""
    ratio = torch.sub((theta + _EPS).log(), total.log())
    found = theta * ratio
    d_mu = torch.div(-theta, total, out=total)
    return found, d_mu, ratio.add_(d_mu).add_(theta / (theta + _EPS))


def _inflate(
    base: torch.Tensor, logits: torch.Tensor, where: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Zero inflation of log likelihoods (overwritten): the values, each entry's probability not to be an
    inflated zero, and the derivative in the logits."""
    base -= logits
    minus = -logits
    found = softplus(base)
    found.view(-1).index_copy_(0, where, base.take(where))
    found -= softplus(minus)
    genuine = base.sigmoid_()
    genuine.view(-1).index_fill_(0, where, 1.0)
    return found, genuine, minus.sigmoid_().sub_(genuine)


def _narrow(expanded: torch.Tensor) -> torch.Tensor:
    """The tensor without the repetitions that broadcasting made of it."""
    for axis, stride in enumerate(expanded.stride()):
        if stride == 0:
            expanded = expanded.narrow(axis, 0, 1)
    return expanded
