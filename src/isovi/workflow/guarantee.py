"""What is certified of the distances of a run's held-out spots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anndata import AnnData

from isovi import tl
from isovi.data.split import HELDOUT
from isovi.errors import InputError
from isovi.geometry.certificate import CERTIFIED_EPSILON
from isovi.tl.certificate import Certificate
from isovi.workflow.finished import Run, run_of


def headline(adata: AnnData, asked: Any) -> dict[str, Any]:
    """Certificate of L(0.1) for random pairs, as ``metrics.json`` tells it.

    Parameters
    ----------
    adata
        Data of a run, with latent and split.
    asked
        Options of the run: ``spatial_key``, ``section_key`` and ``seed`` are read.

    Returns
    -------
    ``epsilon``, ``L``, ``delta``, ``n_pairs``; without ``L`` but with a ``remark`` that says why, if nothing
    is certified; empty if the held-out spots form no pair.
    """
    run = run_of(adata, asked, Path())
    if HELDOUT not in run.parts():
        return {}
    found = certificate(run, matched=False)
    told = {"epsilon": CERTIFIED_EPSILON, "delta": found.delta, "n_pairs": found.n_pairs}
    return told | ({"remark": _why_not(run)} if found.point is None else {"L": found.point.L})


def tell(found: dict[str, Any], figures: dict[str, float]) -> str:
    """The three figures of held-out geometry that matter most, in one line."""
    line = (
        f"Held-out geometry: relative distortion {figures['relative_distortion']:.3f}; "
        f"L({found['epsilon']:g}) = {figures['distortion_constant']:.2f}; "
    )
    if "L" not in found:
        return f"{line}nothing certified: {found['remark']}"
    return f"{line}certified with {1 - found['delta']:.0%} confidence: L <= {found['L']:.2f}"


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
