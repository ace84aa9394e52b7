from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy.stats import norm

from isovi import InputError, IsoVAE, Penalty
from isovi.model.gaussian import log_normalise


@pytest.fixture
def model(tissue: AnnData, quickly: Callable) -> IsoVAE:
    IsoVAE.setup_anndata(tissue, section_key="section", batch_key="batch", continuous_covariate_keys=["age"])
    return quickly(IsoVAE(tissue, n_latent=4, n_hidden=16))


def lognorm(adata: AnnData) -> np.ndarray:
    counts = adata.X.toarray().astype(float)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def test_normalisation_is_log1p_of_counts_per_ten_thousand(tissue: AnnData) -> None:
    found = log_normalise(torch.as_tensor(tissue.X.toarray())).numpy()
    np.testing.assert_allclose(found, lognorm(tissue), rtol=1e-5, atol=1e-6)
    assert not log_normalise(torch.zeros(2, 3)).any()


def test_reconstruction_is_the_gaussian_log_likelihood_of_log_normalised_counts(model: IsoVAE) -> None:
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=40)))
    _, generated, output = model.module.eval()(tensors)
    mean, sd = (part.detach().numpy() for part in (generated["px"].loc, generated["px"].scale))
    expected = -norm.logpdf(lognorm(model.adata)[:40], mean, sd).sum(axis=1)
    found = output.reconstruction_loss["reconstruction_loss"].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.ptp(sd, axis=0).max() == 0, "one variance a gene"


def test_the_encoder_sees_log_normalised_counts(model: IsoVAE) -> None:
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=40)))
    expected, _ = model.module.eval().z_encoder(log_normalise(tensors["X"]), tensors["batch"])
    inferred = model.module.inference(**model.module._get_inference_input(tensors))
    torch.testing.assert_close(inferred["qz"].loc, expected.loc)
    torch.testing.assert_close(inferred["library"], tensors["X"].sum(1, keepdim=True).log())


def test_normalised_expression_are_shares(model: IsoVAE) -> None:
    shares = model.get_normalized_expression()
    assert shares.shape == model.adata.shape
    assert (shares.to_numpy() >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    several = model.get_normalized_expression(n_samples=3, transform_batch="b", library_size=1e4)
    np.testing.assert_allclose(several.sum(axis=1), 1e4, rtol=1e-4)


def test_a_decoder_far_off_still_gives_shares(model: IsoVAE) -> None:
    with torch.no_grad():
        model.module.decoder.mean.bias += 1e3
    assert np.isfinite(model.get_normalized_expression().to_numpy()).all()


def test_batches_are_decoded_apart(model: IsoVAE) -> None:
    a, b = (model.get_normalized_expression(transform_batch=batch).to_numpy() for batch in "ab")
    assert abs(a - b).max() > 1e-6


def test_training_improves_the_reconstruction(tissue: AnnData, quickly: Callable) -> None:
    IsoVAE.setup_anndata(tissue)
    model = IsoVAE(tissue, n_latent=4, n_hidden=32, distortion=Penalty(0.0))
    fit = quickly(model, max_epochs=30, plan_kwargs={"lr": 1e-2})
    history = fit.history_["reconstruction_loss_train"].to_numpy(float).ravel()
    mean = lognorm(tissue).mean(axis=0)
    assert history[-1] < history[0]
    at_means = -norm.logpdf(lognorm(tissue), mean, 1.0).sum(axis=1).mean()
    assert history[-1] < at_means, "better than every gene's mean with the initial variance"


def test_what_a_scvi_model_offers_works(model: IsoVAE) -> None:
    assert model.get_latent_representation().shape == (150, 4)
    sample = model.posterior_predictive_sample(n_samples=2)
    assert sample.shape == (150, 40, 2)
    table = model.differential_expression(groupby="section", group1="section_0", silent=True, mode="change")
    assert len(table) == 40
    assert np.isfinite(table["lfc_mean"]).all()
    for value in (model.get_elbo(), model.get_marginal_ll(n_mc_samples=4, n_mc_samples_per_pass=2)):
        assert np.isfinite(float(value))


@pytest.mark.parametrize(
    "extra", [{"n_layers": 1}, {"gene_likelihood": "normal"}, {"encode_covariates": True}]
)
def test_the_backbones_arguments_are_taken(tissue: AnnData, quickly: Callable, extra: dict[str, Any]) -> None:
    IsoVAE.setup_anndata(tissue, batch_key="batch", categorical_covariate_keys=["domain"])
    fit = quickly(IsoVAE(tissue, n_latent=3, n_hidden=8, **extra), max_epochs=1)
    assert np.isfinite(fit.get_latent_representation()).all()
    assert fit.module.gene_likelihood == "normal"


def test_minified_data_gives_the_same_latent_and_expression(model: IsoVAE) -> None:
    latent, shares = model.get_latent_representation(), model.get_normalized_expression()
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = model.get_latent_representation(
        return_dist=True
    )
    model.minify_adata()
    assert model.adata.X.nnz == 0
    np.testing.assert_array_equal(model.get_latent_representation(), latent)
    again = model.get_normalized_expression().to_numpy()
    assert abs(again - shares.to_numpy()).mean() < 0.5 * shares.to_numpy().mean(), (
        "both are of one sample of z"
    )


# ------------------------------------------------------------------ arguments of scVI's network


@pytest.mark.parametrize(("dispersion", "column"), [("gene-batch", "batch"), ("gene-label", "label")])
def test_a_gene_has_one_variance_for_each_batch_or_label(
    tissue: AnnData, quickly: Callable, dispersion: str, column: str
) -> None:
    IsoVAE.setup_anndata(tissue, batch_key="batch", labels_key="label")
    model = IsoVAE(tissue, n_latent=4, n_hidden=16, dispersion=dispersion)
    quickly(model, plan_kwargs={"lr": 1e-2})
    n_groups = tissue.obs[column].nunique()
    assert model.module.px_r.shape == (40, n_groups)
    tensors = next(iter(model._make_data_loader(tissue, batch_size=150)))
    _, generated, output = model.module.eval()(tensors)
    mean, sd = (part.detach().numpy() for part in (generated["px"].loc, generated["px"].scale))
    found = output.reconstruction_loss["reconstruction_loss"].detach().numpy()
    np.testing.assert_allclose(found, -norm.logpdf(lognorm(tissue), mean, sd).sum(axis=1), rtol=1e-4)
    assert len(np.unique(sd, axis=0)) == n_groups
    for _, rows in tissue.obs.reset_index().groupby(column):
        assert np.ptp(sd[rows.index], axis=0).max() == 0


def test_expression_as_if_of_another_batch_has_the_variance_of_that_batch(tissue: AnnData) -> None:
    IsoVAE.setup_anndata(tissue, batch_key="batch")
    module = IsoVAE(tissue, n_latent=4, dispersion="gene-batch").module.eval()
    with torch.no_grad():
        module.px_r[:, 1] = 2.0
    z, library, batch = torch.zeros(5, 4), torch.zeros(5, 1), torch.zeros(5, 1).long()
    own, other = (module.generative(z, library, batch, transform_batch=code)["px"] for code in (None, 1))
    assert own.scale.unique().tolist() == [1.0]
    torch.testing.assert_close(other.scale, torch.full((5, 40), np.e, dtype=torch.float32))


@pytest.mark.parametrize(
    "given",
    [
        {"dispersion": "gene-cell"},
        {"gene_likelihood": "zinb"},
        {"use_observed_lib_size": False},
        {"batch_representation": "embedding"},
        {"log_variational": True},
    ],
    ids=str,
)
def test_arguments_that_would_not_act_are_refused(tissue: AnnData, given: dict[str, Any]) -> None:
    IsoVAE.setup_anndata(tissue, batch_key="batch")
    (name,) = given
    with pytest.raises(InputError, match=rf"{name}=.*Gaussian"):
        IsoVAE(tissue, **given)


def test_a_size_factor_that_would_not_act_is_refused(tissue: AnnData) -> None:
    tissue.obs["size"] = 1.0
    IsoVAE.setup_anndata(tissue, size_factor_key="size")
    with pytest.raises(InputError, match="size_factor_key"):
        IsoVAE(tissue)


def test_the_decoder_is_made_as_it_is_asked_for(tissue: AnnData) -> None:
    IsoVAE.setup_anndata(tissue)
    plain, asked = (
        IsoVAE(tissue, n_hidden=8, gene_likelihood="normal", **given).module.decoder
        for given in ({}, {"use_batch_norm": "none", "use_layer_norm": "both"})
    )
    kinds = [{type(layer) for layer in decoder.modules()} for decoder in (plain, asked)]
    assert [torch.nn.BatchNorm1d in found for found in kinds] == [True, False]
    assert [torch.nn.LayerNorm in found for found in kinds] == [False, True]
