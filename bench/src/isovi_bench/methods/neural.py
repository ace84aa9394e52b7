"""Variational autoencoders with and without the distortion term, and scVI as it is shipped."""

from __future__ import annotations

from typing import Any

import scvi

from isovi.model.model import IsoSCVI, IsoVAE
from isovi.model.objective import Distortion, Penalty
from isovi_bench.methods.settings import DISTANCES, NETWORK, among, distortion_of, pairs_of, take
from isovi_bench.methods.training import SECTION_KEY, prepared, trained
from isovi_bench.task import Fitted, Task, method

OURS = "Zhou & Du 2024, arXiv:2408.00911"
NETWORK_OF_COUNTS = (*NETWORK, "gene_likelihood", "dispersion")
COUNTS = (*NETWORK_OF_COUNTS, "batch")


@method("vae", decoder="gaussian", reference=OURS)
def vae(task: Task, **settings: Any) -> Fitted:
    """The Gaussian VAE and the training of isoVI without the distortion term.

    Parameters
    ----------
    task
        The data.
    **settings
        Of the network: ``n_latent``, ``n_hidden``, ``n_layers``, ``dropout_rate``.
    """
    return fit(IsoVAE, task, Penalty(0.0), take("vae", settings, NETWORK))


@method("isovae", decoder="gaussian", sees_positions=True, reference=OURS)
def isovae(task: Task, **settings: Any) -> Fitted:
    """The Gaussian VAE with distances kept.

    Parameters
    ----------
    task
        The data.
    **settings
        Of the network as for ``vae``; ``pairs`` as the command line writes it; and the distance
        term, see :func:`isovi_bench.methods.settings.distortion_of`.
    """
    given = take("isovae", settings, (*DISTANCES, *NETWORK))
    return fit(IsoVAE, task, distortion_of(given), given)


@method("scvi", decoder="counts", reference="Lopez et al. 2018")
def plain(task: Task, **settings: Any) -> Fitted:
    """The network and the training of ``isoscvi`` without the distortion term.

    Parameters
    ----------
    task
        The data.
    **settings
        Of the network: ``n_latent``, ``n_hidden``, ``n_layers``, ``dropout_rate``, ``gene_likelihood``,
        ``dispersion``; ``batch``, whether sections are batches, which are corrected for.
    """
    return fit(IsoSCVI, task, Penalty(0.0), take("scvi", settings, COUNTS))


@method("isoscvi", decoder="counts", sees_positions=True, reference=OURS)
def isoscvi(task: Task, **settings: Any) -> Fitted:
    """Distance-preserving scVI.

    Parameters
    ----------
    task
        The data.
    **settings
        Of the network as for ``scvi``, the others as for ``isovae``.
    """
    given = take("isoscvi", settings, (*DISTANCES, *COUNTS))
    return fit(IsoSCVI, task, distortion_of(given), given)


@method("scvi-default", decoder="counts", reference="Lopez et al. 2018")
def default(task: Task, **settings: Any) -> Fitted:
    """``scvi.model.SCVI`` at its own defaults, which do not stop early.

    Parameters
    ----------
    task
        The data.
    **settings
        Of the network, as for ``scvi``.
    """
    given = take("scvi-default", settings, COUNTS)
    scvi.settings.seed = task.seed
    seen = task.seen.copy()
    scvi.model.SCVI.setup_anndata(seen, **_batches(given))
    return trained(scvi.model.SCVI(seen, **among(given, NETWORK_OF_COUNTS)), task, early_stopping=False)


def fit(model_class: type, task: Task, distortion: Distortion, settings: dict[str, Any]) -> Fitted:
    """Make, train and encode with a distance-preserving model."""
    seen = prepared(task, model_class, **_batches(settings))
    network = among(settings, NETWORK_OF_COUNTS)
    return trained(model_class(seen, distortion=distortion, pairs=pairs_of(settings), **network), task)


def _batches(settings: dict[str, Any]) -> dict[str, str]:
    return {"batch_key": SECTION_KEY} if settings.get("batch") else {}
