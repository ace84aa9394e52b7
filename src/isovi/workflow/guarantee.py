"""What is known and what is certified of the distances of a run's held-out spots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from isovi import tl
from isovi.data.split import HELDOUT
from isovi.errors import InputError
from isovi.geometry.certificate import CERTIFIED_EPSILON, DELTA
from isovi.geometry.profile import DistortionProfile
from isovi.tl.certificate import Certificate
from isovi.workflow.finished import LATENT_KEY, Run, run_of


def headline(adata: AnnData, asked: Any) -> dict[str, Any]:
    """L(0.1) of the held-out spots and its certificate for random pairs, as ``metrics.json`` tells them.

    Parameters
    ----------
    adata
        Data of a run, with latent and split.
    asked
        Options of the run: ``spatial_key``, ``section_key`` and ``seed`` are read.

    Returns
    -------
    ``epsilon``, ``L`` (of held-out spots), ``certified_L``, ``delta``, ``n_pairs``, and in ``remark`` why
    nothing is certified, if so; empty if no spots were held out.
    """
    run = run_of(adata, asked, Path())
    if HELDOUT not in run.parts():
        return {}
    point = profile(run, run.parts()[HELDOUT]).for_epsilon(CERTIFIED_EPSILON)
    certified = certificate(run, matched=False)
    found = {"epsilon": point.epsilon, "L": point.L, "delta": DELTA, "n_pairs": certified.n_pairs}
    if certified.point is None:
        return found | {"certified_L": None, "remark": _why_not(run)}
    return found | {"certified_L": certified.point.L}


def tell(found: dict[str, Any], relative_distortion: float) -> str:
    """The three figures of geometry that matter most, in one line."""
    line = (
        f"Held-out geometry: relative distortion {relative_distortion:.3f}; "
        f"L({found['epsilon']:g}) = {found['L']:.2f}; "
    )
    if found["certified_L"] is None:
        return f"{line}nothing certified: {found['remark']}"
    return f"{line}certified with {1 - found['delta']:.0%} confidence: L <= {found['certified_L']:.2f}"


def profile(run: Run, cells: np.ndarray, model: Any = None) -> DistortionProfile:
    """Profile of some of a run's spots, over samples of the posterior if a model is given."""
    asked: dict[str, Any] = {"cells": cells, "model": model, "key_added": "isovi_profile", "seed": run.seed}
    return tl.distortion_profile(run.adata, use_rep=LATENT_KEY, **run.keys, **asked)


def certificate(run: Run, *, matched: bool) -> Certificate:
    """Certificate of a run, with the tighter point where there are held-out cells enough."""
    asked: dict[str, Any] = {"matched": matched, "seed": run.seed, **run.keys}
    try:
        return tl.certificate(run.adata, **asked)
    except InputError:
        return tl.certificate(run.adata, epsilon=None, **asked)


def _why_not(run: Run) -> str:
    """What :func:`isovi.tl.certificate` says where cells are too few."""
    try:
        tl.certificate(run.adata, matched=False, seed=run.seed, **run.keys)
    except InputError as error:
        return f"{error.rule} {error.remedy}"
    return ""
