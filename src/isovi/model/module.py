"""A mixin that gives any scvi-tools module an objective on distances and a thinned encoder input."""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE
from scvi.module.base import LossOutput

from isovi.data.fields import CELL, COORDINATES, SECTION
from isovi.errors import InputError
from isovi.model import keys
from isovi.model.gaussian import GaussianVAE
from isovi.model.hooks import GENERATIVE_INPUT, INFERENCE_INPUT
from isovi.model.likelihood import sparse_likelihood
from isovi.model.objective import DistortionTerm, Objective
from isovi.model.thinning import thin


class DistancePreservingModule:
    """Mixin over a scvi-tools module; use :func:`distance_preserving`.

    Attributes
    ----------
    objective
        Objective for distances; ``None`` leaves the backbone as it is.
    thinning
        Range of the share of counts that the encoder sees while training; ``None`` for all. Each
        cell of a minibatch is thinned binomially with a share drawn uniformly from the range; the
        decoder is still compared with all counts and gets the full library size.
    """

    objective: Objective | None
    thinning: tuple[float, float] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.objective = None
        self.thinning = None

    @property
    def can_thin(self) -> bool:
        """Whether the encoder reads counts and the library size is observed, as in scVI."""
        if not isinstance(self, VAE) or not self.use_observed_lib_size:
            return False
        return self.gene_likelihood != "normal" or isinstance(self, GaussianVAE)  # which normalises counts

    def _thins(self) -> bool:
        return self.training and self.thinning is not None

    def _around_inference_input(self, inputs: dict[str, Any], *_: Any) -> dict[str, Any]:
        if self._thins() and keys.X in inputs:
            inputs[keys.X] = thin(inputs[keys.X], *self.thinning)
        return inputs

    def _around_generative_input(
        self, inputs: dict[str, Any], tensors: dict[str, torch.Tensor], *_: Any
    ) -> dict[str, Any]:
        if self._thins():
            inputs[keys.LIBRARY] = tensors[REGISTRY_KEYS.X_KEY].sum(1, keepdim=True).log()
        return inputs

    def _around_generative(self, outputs: dict[str, Any], *_: Any) -> dict[str, Any]:
        if self.objective is not None and keys.PX in outputs:
            outputs[keys.PX] = sparse_likelihood(outputs[keys.PX])
        return outputs

    def _around_loss(
        self, output: LossOutput, tensors: dict[str, torch.Tensor], inferred: dict[str, Any], *_: Any
    ) -> LossOutput:
        if self.objective is None or COORDINATES not in tensors:  # a datamodule may bring none
            return output
        term = self._distortion(tensors, inferred, output.loss)
        self.objective.note(term, output.n_obs_minibatch)  # reported once an epoch, by DualAscent
        changed = copy(output)  # not replace, which would sum up all parts of the loss once more
        changed.loss = output.loss + term.loss
        return changed

    def _distortion(
        self, tensors: dict[str, torch.Tensor], inferred: dict[str, Any], backbone_loss: torch.Tensor
    ) -> DistortionTerm:
        if keys.QZ not in inferred:
            raise InputError(
                f"{type(self).__name__} infers {', '.join(inferred)}.",
                f'Distances are kept between posteriors "{keys.QZ}" of cells, which it does not infer.',
                "Give preserve_distances a model class such as scvi.model.SCVI, SCANVI, TOTALVI or PEAKVI.",
            )
        posterior, sample = inferred[keys.QZ], inferred[keys.Z]
        encoder = getattr(self, "z_encoder", None)
        transform = getattr(encoder, "z_transformation", lambda z: z)
        objective: Any = self.objective
        term = objective(
            transform(posterior.loc),
            posterior.scale,
            sample if sample.dim() == 2 else sample[0],
            tensors[COORDINATES],
            tensors[SECTION].ravel().long(),
            tensors[CELL].ravel().long(),
        )
        if self.training:
            objective.weigh(backbone_loss, term, posterior.loc)
        return term


def check_thinning(thinning: Any) -> tuple[float, float] | None:
    """The range of thinning, refused if it is none."""
    try:
        low, high = (1.0, 1.0) if thinning is None else thinning
        valid = bool(0 < low <= high <= 1)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(
            f"thinning={thinning!r} was asked for.",
            "It is a pair (low, high) with 0 < low <= high <= 1, or None.",
            "Give for example (0.3, 1.0).",
        )
    return thinning


def _around(backbone: type, name: str, hook: str) -> Callable[..., Any]:
    """The backbone's method followed by a hook of the mixin, with the backbone's signature.

    scvi-tools inspects these signatures to find out what a module can do.
    """
    method = getattr(backbone, name)

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, hook)(method(self, *args, **kwargs), *args)

    return wrapped


@functools.cache
def distance_preserving(backbone: type) -> type:
    """The backbone's module class with :class:`DistancePreservingModule` mixed in."""
    hooks = {
        INFERENCE_INPUT: "_around_inference_input",
        GENERATIVE_INPUT: "_around_generative_input",
        "generative": "_around_generative",
        "loss": "_around_loss",
    }
    methods = {name: _around(backbone, name, hook) for name, hook in hooks.items()}
    name = f"Iso{backbone.__name__}"
    return type(name, (DistancePreservingModule, backbone), {**methods, "__module__": __name__})
