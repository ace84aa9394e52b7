"""Training as ``isovi fit`` does it, for every neural method alike."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scvi
from anndata import AnnData

from isovi.errors import IsoviWarning
from isovi.spots import SPLIT_KEY, TRAIN, VALIDATION
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
    return Fitted(latent, model, n_epochs(model), n_place % latent.shape[1])


def n_epochs(model: Any) -> int:
    """Epochs that a model was trained for."""
    history = model.history_
    return len(next(history[name] for name in ("elbo_train", "train_loss_epoch") if name in history))
