"""The paper's vanilla VAE: a Gaussian likelihood on log-normalised expression."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import Normal
from scvi.model import SCVI
from scvi.module import VAE
from scvi.module.base import LossOutput, auto_move_data
from scvi.nn import FCLayers
from torch import nn

from isovi.data.lognorm import TARGET_SUM
from isovi.errors import InputError
from isovi.model import keys
from isovi.model.hooks import builds


def log_normalise(counts: torch.Tensor) -> torch.Tensor:
    """As :func:`isovi.data.lognorm.log_normalise`, of a minibatch, shape ``(cell, gene)``."""
    return torch.log1p(TARGET_SUM * counts / counts.sum(-1, keepdim=True).clamp(min=1))


# What a Gaussian on log-normalised counts leaves no choice of.
FIXED = {
    "gene_likelihood": "normal",
    "log_variational": False,
    "batch_representation": "one-hot",
    "use_observed_lib_size": True,
}
DISPERSIONS = ("gene", "gene-batch", "gene-label")


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments of scVI's network that would not act.

    Raises
    ------
    InputError
        For the first one.
    """
    choices = {name: (only,) for name, only in FIXED.items()} | {"dispersion": DISPERSIONS}
    for name, known in choices.items():
        if arguments.get(name, known[0]) not in known:
            raise InputError(
                f"{name}={arguments[name]!r} was given for a Gaussian model.",
                f"It must be {' or '.join(map(repr, known))}.",
                "Leave it out, or use IsoSCVI.",
            )
    if arguments.get("use_size_factor_key"):
        raise InputError(
            "The data was set up with size_factor_key for a Gaussian model.",
            "Its likelihood is on counts that are normalised by their sum, so size factors would not act.",
            "Leave size_factor_key out, or use IsoSCVI.",
        )


class GaussianDecoder(nn.Module):
    """Mean of log-normalised expression given latent and categories."""

    def __init__(self, n_input: int, n_output: int, n_cat_list: list[int], **layers: Any) -> None:
        super().__init__()
        self.hidden = FCLayers(n_input, layers["n_hidden"], n_cat_list=n_cat_list, dropout_rate=0, **layers)
        self.mean = nn.Linear(layers["n_hidden"], n_output)

    def forward(self, latent: torch.Tensor, *categories: torch.Tensor) -> torch.Tensor:
        """Mean, shape ``(cell, gene)``."""
        return self.mean(self.hidden(latent, *categories))


class GaussianVAE(VAE):
    """VAE with ``N(mean(z), variance of the gene)`` on log-normalised counts, computed on the fly.

    Parameters
    ----------
    n_input
        Number of genes.
    n_batch
        Number of batches, decoded together with the latent.
    **kwargs
        As for :class:`scvi.module.VAE`, but for what :func:`check_arguments` refuses. ``dispersion`` says
        whether a gene has one variance, or one for each batch or label.

    Raises
    ------
    InputError
        For arguments that this network has no use for.
    """

    def __init__(self, n_input: int, n_batch: int = 0, **kwargs: Any) -> None:
        check_arguments(kwargs)
        super().__init__(n_input, n_batch=n_batch, **{**kwargs, **FIXED})
        self.decoder = GaussianDecoder(
            kwargs.get("n_latent", 10) + kwargs.get("n_continuous_cov", 0),
            n_input,
            [n_batch, *(kwargs.get("n_cats_per_cov") or [])],
            n_layers=kwargs.get("n_layers", 1),
            n_hidden=kwargs.get("n_hidden", 128),
            inject_covariates=kwargs.get("deeply_inject_covariates", True),
            use_batch_norm=kwargs.get("use_batch_norm", "both") in ("decoder", "both"),
            use_layer_norm=kwargs.get("use_layer_norm", "none") in ("decoder", "both"),
            **(kwargs.get("extra_decoder_kwargs") or {}),
        )
        self.px_r: nn.Parameter = nn.Parameter(torch.zeros_like(self.px_r))  # logarithms of variances

    @auto_move_data
    def inference(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Posterior of the latent, and the logarithm of the library size; minified data has no counts."""
        if keys.X not in kwargs:
            return super().inference(*args, **kwargs)
        x = kwargs.pop(keys.X)
        outputs = super().inference(*args, **kwargs, **{keys.X: log_normalise(x)})
        library = x.sum(1, keepdim=True).log()
        outputs[keys.LIBRARY] = library.expand_as(outputs[keys.LIBRARY])
        return outputs

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,  # noqa: ARG002  # as of any scvi-tools module; means need no library size
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        transform_batch: torch.Tensor | int | np.integer | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Distribution of log-normalised expression, with normalised expression as its ``scale``."""
        prior = Normal(torch.zeros_like(z), torch.ones_like(z))
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * torch.as_tensor(transform_batch)
        if cont_covs is not None:
            z = torch.cat([z, cont_covs.expand(*z.shape[:-1], -1)], dim=-1)
        categories = () if cat_covs is None else torch.split(cat_covs, 1, dim=1)
        mean = self.decoder(z, batch_index, *categories)
        expected = torch.expm1(mean.clamp(min=0, max=math.log1p(TARGET_SUM)))
        shares = expected / expected.sum(-1, keepdim=True).clamp(min=1e-8)
        return {
            keys.PX: Normal(mean, (0.5 * self._log_variance(batch_index, y)).exp(), normal_mu=shares),
            keys.PL: None,
            keys.PZ: prior,
        }

    def _log_variance(self, batch_index: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        """Shape ``(gene,)``, or ``(cell, gene)`` where batches or labels differ."""
        if self.dispersion == "gene":
            return self.px_r
        of: Any = batch_index if self.dispersion == "gene-batch" else y
        return self.px_r.T[of.squeeze(-1).long()]

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float | int = 1.0,  # scvi-tools passes the int 1 outside training
    ) -> LossOutput:
        """ELBO loss, with the reconstruction held against log-normalised counts."""
        counts = tensors[REGISTRY_KEYS.X_KEY]
        normalised = {**tensors, REGISTRY_KEYS.X_KEY: log_normalise(counts)}
        return super().loss(normalised, inference_outputs, generative_outputs, kl_weight=kl_weight)


@builds(GaussianVAE)
class GaussianSCVI(SCVI):
    """SCVI's interface over :class:`GaussianVAE`.

    Posterior predictive samples and ``library_size="latent"`` are on the log-normalised scale.

    Parameters
    ----------
    adata, registry, **kwargs
        As for :class:`scvi.model.SCVI`, but for what :func:`check_arguments` refuses.
    """

    def __init__(
        self, adata: Any = None, registry: Any = None, gene_likelihood: str = "normal", **kwargs: Any
    ) -> None:
        super().__init__(adata, registry, gene_likelihood=gene_likelihood, **kwargs)
