"""Training as ``isovi fit`` does it, for every neural method alike."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import scvi
from anndata import AnnData

from isovi import tl
from isovi.errors import IsoviWarning
from isovi.spots import SPLIT_KEY, TRAIN, VALIDATION
from isovi.tl._inputs import IDENTITY_KEY, LATENT_KEY
from isovi_bench.task import Fitted, Task

SECTION_KEY = "section"


def prepared(task: Task, model_class: type, **setup: Any) -> AnnData:
    """A copy of the seen spots, set up for a model; whatever the model draws is seeded.

    Parameters
    ----------
    task
        The data.
    model_class
        A distance-preserving model class.
    **setup
        Further arguments of its ``setup_anndata``.
    """
    scvi.settings.seed = task.seed
    seen = task.seen.copy()
    section_key = SECTION_KEY if seen.obs[SECTION_KEY].nunique() > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # said when the data was prepared
        model_class.setup_anndata(seen, section_key=section_key, **setup)  # type: ignore[attr-defined]
    return seen


def trained(model: Any, task: Task, **kwargs: Any) -> Fitted:
    """Train on the training spots, stop early by the validation spots if there are any, and encode all.

    Parameters
    ----------
    model
        Made on the seen spots of the task.
    task
        The data.
    **kwargs
        Further arguments of the model's ``train``.
    """
    part = task.seen.obs[SPLIT_KEY].to_numpy()
    indices = [np.flatnonzero(part == name) for name in (TRAIN, VALIDATION)]
    model.train(
        task.max_epochs,
        **{"early_stopping": len(indices[1]) > 0, **kwargs},
        datasplitter_kwargs={"external_indexing": indices},
        enable_progress_bar=False,
    )
    # Spots without positions are encoded: their pairs are of no length, and the encoder reads counts only.
    latent = model.get_latent_representation(task.spots.copy())
    distortion: Any = getattr(model, "distortion", None)
    n_place = 0 if distortion is None else distortion.part(latent, "place").shape[1]
    n_place %= latent.shape[1]
    ours = sees_tissue(model)  # of the others none has domains and positions of its own
    return Fitted(
        latent,
        model,
        n_epochs(model),
        n_place,
        domains=partial(domains_of, task, latent, n_place) if ours else "leiden",
        positions=partial(positions_of, model, task) if ours else None,
        expression=partial(shares, model, task),
    )


def shares(model: Any, task: Task) -> np.ndarray:
    """Share of each gene in the molecules of every spot, as a model with a decoder expects it."""
    found = model.get_normalized_expression(task.spots.copy(), library_size=1.0, return_numpy=True)
    return np.maximum(found, 0.0)


def sees_tissue(model: Any) -> bool:
    """Whether a model is one of isoVI that was set up with positions in the tissue."""
    return model.adata_manager.registry["setup_args"].get("spatial_key") == "spatial"


def domains_of(task: Task, latent: np.ndarray, n_place: int) -> np.ndarray:
    """Domains of the seen spots by :func:`isovi.tl.domains` at its defaults, shape ``(seen cell,)``."""
    seen = AnnData(
        obs=task.seen.obs[[SECTION_KEY]].copy(),
        var=task.seen.var[[]],
        obsm={
            LATENT_KEY: latent[task.rows],
            IDENTITY_KEY: latent[task.rows, n_place:],
            "spatial": task.seen.obsm["spatial"],
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # fewer domains show in the metrics
        tl.domains(seen, section_key=SECTION_KEY, n_domains=task.n_domains, seed=task.seed)
    return seen.obs["isovi_domain"].to_numpy()


def positions_of(model: Any, task: Task) -> np.ndarray:
    """Positions of the other spots by :class:`isovi.tl.SpatialPlacer`, NaN for the seen ones."""
    found = np.full((task.spots.n_obs, task.seen.obsm["spatial"].shape[1]), np.nan)
    asked = np.setdiff1d(np.arange(task.spots.n_obs), task.rows)
    if len(asked):
        calibration = task.seen.obs[SPLIT_KEY].to_numpy() == VALIDATION
        calibration &= tl.training_split(model, task.seen) != TRAIN  # with few genes, cells may be alike
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IsoviWarning)  # of radii and flags, which are not used
            placer = tl.SpatialPlacer(model, seed=task.seed).fit(task.seen.copy(), calibration=calibration)
            found[asked] = placer.predict(task.spots[asked].copy())
    return found


def n_epochs(model: Any) -> int:
    """Epochs that a model was trained for."""
    history = model.history_
    return len(next(history[name] for name in ("elbo_train", "train_loss_epoch") if name in history))
