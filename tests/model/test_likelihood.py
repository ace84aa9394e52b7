from __future__ import annotations

import pytest
import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from isovi.model.likelihood import (
    SparseNegativeBinomial,
    SparseZeroInflatedNegativeBinomial,
    sparse_likelihood,
)

CELLS, GENES, SAMPLES = 6, 11, 3
THETAS = {
    "gene": (GENES,),
    "gene-cell": (CELLS, GENES),
    "cell": (CELLS, 1),
    "sample": (SAMPLES, CELLS, GENES),
    "one": (),
}
LAYOUTS = [(mu, theta) for mu in ("2d", "3d") for theta in THETAS if (mu, theta) != ("2d", "sample")]
CLASSES = {
    NegativeBinomial: SparseNegativeBinomial,
    ZeroInflatedNegativeBinomial: SparseZeroInflatedNegativeBinomial,
}


def parameters(layout: tuple[str, str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (CELLS, GENES) if layout[0] == "2d" else (SAMPLES, CELLS, GENES)

    def normal(size: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    drawn = {
        "mu": normal(shape).mul(3).exp(),
        "theta": normal(THETAS[layout[1]]).exp(),
        "zi_logits": normal(shape),
    }
    return {key: value.requires_grad_() for key, value in drawn.items()}


def counts(dtype: torch.dtype) -> torch.Tensor:
    """Mostly zeros; one cell without any, one without a zero, and a few large counts.

    In single precision up to 1000 only: beyond, the rounding of lgamma alone makes either log-likelihood
    uncertain by more than is asked for here.
    """
    generator = torch.Generator().manual_seed(1)
    values = torch.poisson(torch.full((CELLS, GENES), 0.7), generator=generator)
    values[0] = 0
    values[1] = torch.arange(1, GENES + 1)
    values[2, :3] = torch.tensor([300.0, 1e3, 1e5 if dtype == torch.float64 else 1e3])
    return values.to(dtype)


def value_and_gradients(
    cls: type, layout: tuple[str, str], dtype: torch.dtype, value: torch.Tensor
) -> list[torch.Tensor]:
    given = parameters(layout, dtype)
    if "ZeroInflated" not in cls.__name__:
        del given["zi_logits"]
    logs = cls(**given).log_prob(value)
    weights = torch.linspace(0.5, 1.5, logs.numel(), dtype=dtype).view_as(logs)
    return [logs.detach(), *torch.autograd.grad((weights * logs).sum(), list(given.values()))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("theirs", CLASSES)
def test_values_and_gradients_are_those_of_scvi_tools(
    theirs: type, layout: tuple[str, str], dtype: torch.dtype, tolerance: float
) -> None:
    value = counts(dtype)
    expected = value_and_gradients(theirs, layout, dtype, value)
    found = value_and_gradients(CLASSES[theirs], layout, dtype, value)
    for ours, scvis in zip(found, expected, strict=True):
        assert ours.shape == scvis.shape
        torch.testing.assert_close(ours, scvis, rtol=tolerance, atol=tolerance * float(scvis.abs().mean()))


@pytest.mark.parametrize("ours", CLASSES.values())
def test_all_counts_may_be_zero_or_none(ours: type) -> None:
    for value in (torch.zeros(CELLS, GENES), torch.ones(CELLS, GENES)):
        found = value_and_gradients(ours, ("2d", "gene"), torch.float32, value)
        assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.parametrize("theirs", CLASSES)
def test_the_distribution_is_the_same_but_for_its_class(theirs: type) -> None:
    given = parameters(("2d", "gene"), torch.float32)
    if theirs is NegativeBinomial:
        del given["zi_logits"]
    px = theirs(**given, scale=given["mu"].detach() / 2)
    found = sparse_likelihood(px)
    assert type(found) is CLASSES[theirs]
    assert torch.equal(found.mean, px.mean)
    assert torch.equal(found.scale, px.scale)
    assert torch.equal(found.get_normalized("scale"), px.get_normalized("scale"))


@pytest.mark.parametrize(
    "px", [Poisson(torch.ones(3)), SparseNegativeBinomial(mu=torch.ones(3), theta=torch.ones(3))]
)
def test_other_distributions_pass_through(px: torch.distributions.Distribution) -> None:
    assert sparse_likelihood(px) is px
