"""What is certified of the distances of a run's held-out spots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from anndata import AnnData

from isovi import tl
from isovi.geometry.certificate import CERTIFIED_EPSILON, cells_needed, least_epsilon
from isovi.spots import HELDOUT
from isovi.tl.certificate import Certificate
from isovi.workflow.finished import Run, run_of


def headline(adata: AnnData, asked: Any) -> dict[str, Any]:
    """Certificate of L for random pairs of held-out spots, as ``metrics.json`` tells it.

    Parameters
    ----------
    adata
        Data of a run, with latent and split.
    asked
        Options of the run: ``spatial_key``, ``section_key`` and ``seed`` are read.

    Returns
    -------
    ``epsilon`` (0.1, or the smallest that so few spots can certify), ``L``, ``delta`` and ``n_pairs``; empty
    if the held-out spots make fewer than two pairs.
    """
    run = run_of(adata, asked, Path())
    found = None if HELDOUT not in run.parts() else certificate(run, matched=False)
    if found is None or found.point is None:
        return {}
    return {**asdict(found.point), "n_pairs": found.n_pairs}


def tell(found: dict[str, Any], figures: dict[str, float]) -> str:
    """The three figures of held-out geometry that matter most, in one line."""
    said = (
        f"Held-out geometry: relative distortion {figures['relative_distortion']:.3f}; "
        f"L({CERTIFIED_EPSILON:g}) = {figures['distortion_constant']:.2f}; "
        f"certified with {1 - found['delta']:.0%} confidence: L({found['epsilon']:g}) <= {found['L']:.2f}"
    )
    if found["epsilon"] > CERTIFIED_EPSILON:
        said += f" ({cells_needed(CERTIFIED_EPSILON)} held-out spots would do for {CERTIFIED_EPSILON:g})"
    return said


def certificate(run: Run, *, matched: bool) -> Certificate:
    """Certificate of a run for ε = 0.1, or for the smallest ε that its held-out spots allow."""
    asked: dict[str, Any] = {"matched": matched, "seed": run.seed, **run.keys}
    curve = tl.certificate(run.adata, epsilon=None, **asked)
    epsilon = max(CERTIFIED_EPSILON, least_epsilon(curve.n_pairs))
    return curve if epsilon >= 1 else tl.certificate(run.adata, epsilon=epsilon, **asked)
