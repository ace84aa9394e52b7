from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scvi.model import AUTOZI, PEAKVI, SCANVI, SCVI, TOTALVI
from scvi.module import VAE

from isovi import Constraint, InputError, IsoSCVI, IsoVAE, Penalty, preserve_distances
from isovi.model import thinning as thins
from isovi.model.likelihood import SparseZeroInflatedNegativeBinomial
from isovi.model.module import distance_preserving, thin


def counts(n_cells: int, n_genes: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.poisson(torch.full((n_cells, n_genes), 3.0), generator=generator)


# ------------------------------------------------------------------ thinning


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.3), (0.3, 1.0), (0.6, 0.8)])
def test_thinned_counts_have_the_binomial_mean_and_variance(low: float, high: float) -> None:
    """With a share p ~ U(low, high) of each cell: E k = n E p, Var k = n E p(1 - p) + n² Var p."""
    n, cells = 12.0, 40_000
    kept = thin(torch.full((cells, 2), n), low, high).double()
    mean_share = (low + high) / 2
    share_variance = (high - low) ** 2 / 12
    variance = n * (mean_share - mean_share**2 - share_variance) + n**2 * share_variance
    for gene in kept.T:
        assert abs(float(gene.mean()) - n * mean_share) < 4 * np.sqrt(variance / cells)
        assert float(gene.var()) == pytest.approx(variance, rel=0.04)
    covariance = float(torch.cov(kept.T)[0, 1])
    assert covariance == pytest.approx(n**2 * share_variance, abs=4 * variance / np.sqrt(cells)), (
        "one share a cell"
    )


def test_thinned_counts_are_whole_and_no_larger() -> None:
    whole = counts(200)
    kept = thin(whole, 0.3, 1.0)
    assert torch.equal(kept, kept.round())
    assert (kept >= 0).all() and (kept <= whole).all()
    assert 0.55 < float(kept.sum() / whole.sum()) < 0.75


def test_all_counts_kept_is_no_thinning() -> None:
    assert torch.equal(thin(counts(50), 1.0, 1.0), counts(50))


def test_no_cell_loses_every_count() -> None:
    lone = torch.zeros(2000, 5)
    lone[:, 2] = 1
    assert torch.equal(thin(lone, 0.3, 0.5), lone)
    assert not thin(torch.zeros(3, 5), 0.3, 0.5).any()


@pytest.mark.parametrize("known", [True, False], ids=["non-zeros are known", "they are not"])
def test_counts_on_an_accelerator_are_thinned_by_the_same_law(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Draws for all counts alike; where the non-zeros would have to be counted, for all entries."""
    monkeypatch.setattr(thins, "_draws_alike", lambda _: True)
    if not known:
        monkeypatch.setattr(thins, "known_nonzeros", lambda _: None)
    n, cells = 20, 4000
    kept = thin(torch.full((cells, 2), float(n)), 0.5, 0.5)
    assert float(kept.mean()) == pytest.approx(n / 2, abs=5 * math.sqrt(n / 4 / cells / 2))
    assert float(kept.var()) == pytest.approx(n / 4, rel=0.1)
    lone = torch.eye(5)
    assert torch.equal(thin(lone, 0.3, 0.5), lone), "a cell keeps all rather than lose all"


@pytest.fixture
def model(tissue: AnnData) -> IsoSCVI:
    IsoSCVI.setup_anndata(tissue, section_key="section")
    return IsoSCVI(tissue, n_latent=3, n_hidden=8)


def tensors_of(model: IsoSCVI) -> dict[str, torch.Tensor]:
    return next(iter(model._make_data_loader(model.adata, batch_size=32)))


def test_only_the_encoder_in_training_sees_fewer_counts(model: IsoSCVI) -> None:
    module, tensors = model.module, tensors_of(model)
    whole, module.thinning = tensors["X"].clone(), (0.3, 0.5)
    seen = module.train()._get_inference_input(tensors)["x"]
    assert 0.3 < float(seen.sum() / whole.sum()) < 0.5
    assert torch.equal(tensors["X"], whole), "the reconstruction is of all counts"
    inferred = module.inference(**module._get_inference_input(tensors))
    library = module._get_generative_input(tensors, inferred)["library"]
    torch.testing.assert_close(library, whole.sum(1, keepdim=True).log())
    assert torch.equal(module.eval()._get_inference_input(tensors)["x"], whole)
    inferred = module.inference(**module._get_inference_input(tensors))
    torch.testing.assert_close(
        module._get_generative_input(tensors, inferred)["library"], inferred["library"]
    )


def test_inference_and_validation_do_not_depend_on_thinning(model: IsoSCVI) -> None:
    found = []
    for thinning in (None, (0.3, 0.4)):
        model.module.thinning = thinning
        model.module.eval()
        model.is_trained_ = True
        torch.manual_seed(0)
        found.append((model.get_latent_representation(), float(model.get_elbo())))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_thinning_is_automatic_where_it_is_possible(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    for distortion, network, expected in [
        (Constraint(), {}, (0.3, 1.0)),
        (Penalty(0.0), {}, (0.3, 1.0)),
        (None, {}, None),
        (Constraint(), {"use_observed_lib_size": False}, None),
    ]:
        model = IsoSCVI(tissue, n_latent=3, n_hidden=8, distortion=distortion, **network)
        assert quickly(model, max_epochs=1).module.thinning == expected
        assert quickly(model, max_epochs=1, thinning=None).module.thinning is None


def test_plain_models_can_be_thinned_on_request(tissue: AnnData, quickly: Callable) -> None:
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, n_latent=3, n_hidden=8, distortion=None)
    assert quickly(model, thinning=(0.5, 0.9)).module.thinning == (0.5, 0.9)
    assert "relative_distortion_train" not in model.history_


def setups(adata: AnnData) -> dict[type, dict[str, Any]]:
    adata.obsm["protein"] = np.random.default_rng(0).poisson(5, (adata.n_obs, 4))
    return {
        TOTALVI: {"protein_expression_obsm_key": "protein"},
        PEAKVI: {},
        SCANVI: {"labels_key": "label", "unlabeled_category": "unknown"},
        AUTOZI: {},
    }


@pytest.mark.parametrize(
    ("backbone", "can"), [(TOTALVI, False), (PEAKVI, False), (SCANVI, True), (AUTOZI, True)]
)
def test_backbones_say_whether_they_can_be_thinned(tissue: AnnData, backbone: type, can: bool) -> None:
    made = preserve_distances(backbone)
    made.setup_anndata(tissue, **setups(tissue)[backbone])
    model = made(tissue)
    assert model.module.can_thin == can
    if not can:
        with pytest.raises(InputError, match=rf"thinning=\(0.3, 0.9\).*Iso{backbone.__name__}"):
            model.train(1, thinning=(0.3, 0.9))


@pytest.mark.parametrize("thinning", [(0.0, 1.0), (0.5, 0.3), (0.5, 1.1), (-0.1, 0.5)])
def test_shares_out_of_range_are_refused(model: IsoSCVI, thinning: tuple) -> None:
    with pytest.raises(InputError, match=r"thinning=.* was asked for.*0 < low <= high <= 1"):
        model.train(1, thinning=thinning)


@pytest.mark.parametrize("thinning", ["none", "0.3-1"])
def test_words_that_are_no_share_are_refused(model: IsoSCVI, thinning: str) -> None:
    with pytest.raises(InputError, match=f"thinning='{thinning}'"):
        model.train(1, thinning=thinning)


# ------------------------------------------------------------------ the mixin


@pytest.mark.parametrize("cls", [VAE, SCANVI._module_cls, TOTALVI._module_cls, PEAKVI._module_cls])
def test_signatures_that_scvi_tools_inspects_are_kept(cls: type) -> None:
    made = distance_preserving(cls)
    for name in ("loss", "generative", "_get_inference_input", "_get_generative_input"):
        assert inspect.signature(getattr(made, name)) == inspect.signature(getattr(cls, name))
    assert issubclass(made, cls)
    assert distance_preserving(cls) is made


def test_the_objective_changes_the_loss_and_the_report_only(model: IsoSCVI) -> None:
    module, tensors = model.module.eval(), tensors_of(model)
    module.objective.log_multiplier.fill_(2.0)
    torch.manual_seed(0)
    with torch.no_grad():
        *_, with_objective = module(tensors)
    objective, module.objective = module.objective, None
    torch.manual_seed(0)
    *_, without = module(tensors)
    module.objective = objective
    found = objective.noted(training=False)
    term = found["relative_distortion"] * float(objective.multiplier)
    assert float(with_objective.loss) == pytest.approx(float(without.loss) + term, rel=1e-5)
    assert set(with_objective.extra_metrics) == set(without.extra_metrics), "each would cost a step time"
    module.train()(tensors)
    assert set(found) == set(objective.noted()) == {"relative_distortion", "distance_scale", "multiplier"}
    assert not objective.noted() and not objective.noted(training=False)
    for part in ("reconstruction_loss", "kl_local"):
        for key, value in getattr(without, part).items():
            torch.testing.assert_close(getattr(with_objective, part)[key], value, rtol=1e-5, atol=1e-4)
    assert with_objective.n_obs_minibatch == without.n_obs_minibatch


def test_the_likelihood_is_the_cheaper_one_with_an_objective_only(model: IsoSCVI) -> None:
    *_, generated, _ = model.module.eval()(tensors_of(model))
    assert type(generated["px"]) is SparseZeroInflatedNegativeBinomial
    model.module.objective = None
    *_, generated, _ = model.module(tensors_of(model))
    assert type(generated["px"]).__module__.startswith("scvi.")


def test_several_samples_of_the_posterior_can_be_decoded(model: IsoSCVI) -> None:
    """As marginal likelihoods need it; the likelihood broadcasts, and one sample is compared with tissue."""
    torch.manual_seed(0)
    *_, output = model.module.eval()(tensors_of(model), inference_kwargs={"n_samples": 5})
    assert output.reconstruction_loss["reconstruction_loss"].shape == (5, 32)
    objective, model.module.objective = model.module.objective, None
    torch.manual_seed(0)
    *_, plain = model.module(tensors_of(model), inference_kwargs={"n_samples": 5})
    model.module.objective = objective
    torch.testing.assert_close(
        output.reconstruction_loss["reconstruction_loss"], plain.reconstruction_loss["reconstruction_loss"]
    )


@pytest.mark.parametrize("cls", [IsoSCVI, IsoVAE])
def test_logistic_normal_latents_are_compared_as_they_are_reported(tissue: AnnData, cls: type) -> None:
    cls.setup_anndata(tissue)
    model = cls(tissue, n_latent=3, latent_distribution="ln")
    objective, seen = model.module.objective, {}
    measure = objective.forward
    objective.forward = lambda *given: seen.update(loc=given[0], sample=given[2]) or measure(*given)
    model.module.eval()(tensors_of(model))
    for points in seen.values():
        torch.testing.assert_close(points.sum(1), torch.ones(32))


def test_the_names_tell_the_backbone() -> None:
    assert preserve_distances(SCVI).__name__ == "IsoSCVI"
    assert preserve_distances(SCVI) is preserve_distances(SCVI)
    assert distance_preserving(VAE).__name__ == "IsoVAE"


@pytest.mark.parametrize("given", [VAE, dict])
def test_what_is_no_model_class_is_refused(given: type) -> None:
    with pytest.raises(
        InputError, match=rf"{given.__name__} was given .*Give a model class such as scvi.model.SCVI"
    ):
        preserve_distances(given)
