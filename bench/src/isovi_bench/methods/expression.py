"""isoVI's VAE with the distances between inputs in the place of tissue distances: it sees no positions."""

from __future__ import annotations

from typing import Any

import scvi
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from isovi.data.fields import COORDINATES
from isovi.model.gaussian import GaussianVAE, log_normalise
from isovi.model.model import IsoVAE
from isovi.model.module import distance_preserving
from isovi.model.objective import DistortionTerm
from isovi_bench.methods.components import principal_components
from isovi_bench.task import Task

COMPONENTS_KEY = "isovi_components"
N_AXES = 2


class ExpressionModule(distance_preserving(GaussianVAE)):  # type: ignore[misc]  # a class made at run time
    """The VAE's module; its objective is given log-normalised expression as the coordinates."""

    def _distortion(
        self, tensors: dict[str, torch.Tensor], inferred: dict[str, Any], backbone_loss: torch.Tensor
    ) -> DistortionTerm:
        inputs = log_normalise(tensors[REGISTRY_KEYS.X_KEY])
        return super()._distortion({**tensors, COORDINATES: inputs}, inferred, backbone_loss)


class ExpressionVAE(IsoVAE):
    """IsoVAE that keeps Euclidean distances of log-normalised expression, between spots of a minibatch."""

    _module_cls = ExpressionModule

    def _fit_scale(self) -> None:
        """Leave λ as averaged over minibatches: latent length per length of expression."""


def prepared(task: Task, model_class: type[ExpressionVAE] = ExpressionVAE) -> AnnData:
    """A copy of the seen spots without their positions, set up; whatever the model draws is seeded.

    Principal components stand where the model looks for positions; what it makes of them is not used,
    since distances are those of expression.
    """
    scvi.settings.seed = task.seed
    seen = task.seen.copy()
    del seen.obsm["spatial"]
    seen.obsm[COMPONENTS_KEY] = principal_components(task, N_AXES)[task.rows]
    model_class.setup_anndata(seen, spatial_key=COMPONENTS_KEY)
    return seen
