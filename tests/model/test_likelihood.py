from __future__ import annotations

import pytest
import torch
from anndata import AnnData
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from isovi import IsoSCVI, Penalty
from isovi.data.loading import nonzero_cache
from isovi.data.loading.nonzero_cache import remember
from isovi.model.likelihood import (
    SparseNegativeBinomial,
    SparseZeroInflatedNegativeBinomial,
    sparse_likelihood,
)
from isovi.model.objective import Objective

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


def test_counts_that_an_accelerator_would_have_to_count_are_left_to_scvi_tools() -> None:
    given = parameters(("2d", "gene"), torch.float32)
    value = counts(torch.float32).to("meta")
    for theirs, ours in CLASSES.items():
        names = ("mu", "theta", "zi_logits")[: 2 + (theirs is ZeroInflatedNegativeBinomial)]
        found = ours(**{name: given[name].to("meta") for name in names}).log_prob(value)
        assert found.is_meta and "LogProb" not in type(found.grad_fn).__name__
        known = remember(value, torch.arange(3, device="meta"))
        found = ours(**{name: given[name].to("meta") for name in names}).log_prob(value)
        assert found.is_meta and "LogProb" in type(found.grad_fn).__name__
        assert nonzero_cache.remembered(value) is known
        value = value.clone()


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


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal"])
def test_loss_and_gradients_are_those_of_scvi_tools(
    tissue: AnnData, likelihood: str, dispersion: str
) -> None:
    IsoSCVI.setup_anndata(tissue, batch_key="batch", labels_key="label")
    model = IsoSCVI(tissue, gene_likelihood=likelihood, dispersion=dispersion, n_latent=4, n_hidden=16)
    module, found = model.module.train(), []
    batch = next(iter(model._make_data_loader(tissue, batch_size=64)))
    objective = module.objective
    for asked in (Penalty(0.0), None):
        module.objective = None if asked is None else Objective(asked, 1)
        module.zero_grad()
        torch.manual_seed(0)
        *_, output = module(batch)
        output.loss.backward()
        gradients = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
        found.append({"loss": output.loss.detach(), **gradients})
    module.objective = objective
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for key, value in theirs.items() if key != "loss")
    for key, value in theirs.items():  # before batch normalisation the gradient of a bias is rounding alone
        size = max(float(value.abs().max()), 1e-2 * largest)
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-4 * size, msg=key)


def test_values_far_out_are_those_of_scvi_tools() -> None:
    """Zero inflation all but certain or absent, means and dispersions over 16 orders of magnitude."""
    mu, theta = (torch.logspace(-8, 8, 9).view(shape).expand(9, 9) for shape in ((9, 1), (1, 9)))
    for logit in (-100.0, -20.0, 0.0, 20.0, 100.0):
        for value in (torch.zeros(9, 9), torch.full((9, 9), 3.0)):
            given = {
                "mu": mu.double(),
                "theta": theta.double(),
                "zi_logits": torch.full((9, 9), logit).double(),
            }
            expected = ZeroInflatedNegativeBinomial(**given).log_prob(value.double())
            found = SparseZeroInflatedNegativeBinomial(**given).log_prob(value.double())
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
