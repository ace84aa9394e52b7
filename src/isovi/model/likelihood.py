"""Count likelihoods in closed form: few passes over memory, logarithmic gamma functions on non-zeros only.

The gamma terms of a negative binomial vanish at a count of zero, and 70 to 99 % of spatial counts are zero.
Gradients are written out and computed along with the values, which spares autograd a dozen arrays.
Values and gradients are those of :mod:`scvi.distributions`; only the work differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from isovi.data.loading.nonzero_cache import known_nonzeros, nonzeros
from isovi.model.hooks import UncheckedSample

_EPS = 1e-8  # as in scvi.distributions


class SparseNegativeBinomial(NegativeBinomial):
    """:class:`scvi.distributions.NegativeBinomial` with a cheaper ``log_prob``."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log likelihood of each count; differentiable once, in the parameters only."""
        if not _is_counted(value, self.mu):
            return super().log_prob(value)
        return _LogProb.apply(value, *torch.broadcast_tensors(self.mu, self.theta), None)


class SparseZeroInflatedNegativeBinomial(UncheckedSample, ZeroInflatedNegativeBinomial):
    """:class:`scvi.distributions.ZeroInflatedNegativeBinomial` with a cheaper ``log_prob``."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log likelihood of each count; differentiable once, in the parameters only."""
        if not _is_counted(value, self.mu):
            return super().log_prob(value)
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


def _is_counted(value: torch.Tensor, mu: torch.Tensor) -> bool:
    """Whether the non-zeros are known, or may be found without waiting for an accelerator."""
    return value.device.type == "cpu" or (value.shape == mu.shape and known_nonzeros(value) is not None)


class _LogProb(torch.autograd.Function):
    """Log likelihood of every entry, with its derivatives kept for the backward pass.

    Per entry, with mean μ, inverse dispersion θ and a = θ log(θ / (θ + μ)): a count of zero has the log
    likelihood a, a positive one a plus :meth:`_Positive.terms`. With logits π of zero inflation it is
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
        ratio = torch.sub((theta + _EPS).log(), total.log())
        base = theta * ratio
        found = base if logits is None else _inflate(base, logits, positive.where)
        _add(found, positive.where, positive.terms())
        if any(ctx.needs_input_grad):
            d_mu = torch.div(-theta, total, out=total)
            d_theta = ratio.add_(d_mu).add_(theta / (theta + _EPS))
            d_logits = None
            if logits is not None:
                genuine = _genuine(base, positive.where)
                d_mu *= genuine
                d_theta *= genuine
                d_logits = torch.sigmoid(-logits).sub_(genuine)
            for entries, terms in zip((d_mu, d_theta), positive.derivatives(), strict=True):
                _add(entries, positive.where, terms)
            ctx.save_for_backward(d_mu, d_theta, d_logits)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *(None if part is None else gradient * part for part in ctx.saved_tensors)


class _Positive(NamedTuple):
    """What a positive count x adds: x log(μ / (θ + μ)) + log Γ(x + θ) / (Γ(θ) x!)."""

    where: torch.Tensor  # position of each positive count in the flattened minibatch
    counts: torch.Tensor
    mu: torch.Tensor
    total: torch.Tensor  # θ + μ
    size: torch.Tensor  # θ
    theta: torch.Tensor  # θ of every entry, repeated by broadcasting where it is shared

    @classmethod
    def of(cls, value: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, total: torch.Tensor) -> _Positive:
        value = value if value.shape == mu.shape else value.expand_as(mu)  # it may know its own non-zeros
        where = nonzeros(value)
        counts, size = _at(value, where).to(mu.dtype), theta.expand_as(mu).take(where)
        return cls(where, counts, _at(mu, where) + _EPS, _at(total, where), size, theta.expand_as(mu))

    def _rise(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """A function's rise from θ to θ + x."""
        theta = _narrow(self.theta)
        few = theta.numel() < len(self.where)
        start = function(theta).expand_as(self.theta).take(self.where) if few else function(self.size)
        return function(self.counts + self.size) - start

    def terms(self) -> torch.Tensor:
        gammas = self._rise(torch.lgamma) - torch.lgamma(self.counts + 1)
        return self.counts * (self.mu / self.total).log() + gammas

    def derivatives(self) -> tuple[torch.Tensor, torch.Tensor]:
        """In μ and in θ."""
        share = self.counts / self.total
        return self.counts / self.mu - share, self._rise(torch.digamma) - share


def _inflate(base: torch.Tensor, logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Log likelihoods with zero inflation; takes the logits off ``base``."""
    base -= logits
    found = softplus(base)
    found.view(-1).index_copy_(0, where, _at(base, where))
    return found.sub_(softplus(-logits))


def _genuine(base: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Probability of each entry not to be an inflated zero; overwrites ``base``."""
    genuine = base.sigmoid_()
    genuine.view(-1).index_fill_(0, where, 1.0)
    return genuine


def _at(entries: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return entries.reshape(-1).index_select(0, where)


def _add(entries: torch.Tensor, where: torch.Tensor, terms: torch.Tensor) -> None:
    entries.view(-1).index_add_(0, where, terms)


def _narrow(expanded: torch.Tensor) -> torch.Tensor:
    """The tensor without the repetitions that broadcasting made of it."""
    for axis, stride in enumerate(expanded.stride()):
        if stride == 0:
            expanded = expanded.narrow(axis, 0, 1)
    return expanded
