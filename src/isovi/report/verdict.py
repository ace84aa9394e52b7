"""The verdict on a run, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isovi.geometry.certificate import CERTIFIED_EPSILON, cells_needed
from isovi.model.objective import Penalty
from isovi.model.training import TOLERANCE, TrainingOutcome
from isovi.report.record import Statement, plain_number
from isovi.run import Run

ACTIVE_VARIANCE = 0.01
"""Variance of posterior means over spots above which a latent dimension is in use (Burda et al. 2016)."""

_COLLAPSED_KL = 0.1  # nats per spot: the latent says nothing
_UNRELATED, _LOOSE = 0.1, 0.3  # Spearman's ρ of distances that do not follow the tissue, or only loosely
_VAGUE = 20.0  # a factor that no longer separates near from far
_ALIKE = 0.01  # relative difference that counts as none
_COMPARED = {
    "coordinate_error": "coordinate error",
    "relative_distortion": "relative distortion",
    "reconstruction": "reconstruction loss",
}

Metrics = Mapping[str, Any]


def verdict(run: Run, plain: Metrics | None = None) -> list[Statement]:
    """Statements about a run, most important first.

    Parameters
    ----------
    run
        The run.
    plain
        Metrics of the plain backbone on the same spots, if there is one to compare with.
    """
    metrics = run.metrics
    said = [
        _constraint(run),
        _heldout(metrics),
        _certified(metrics),
        _health(metrics, run.latent()),
    ]
    return said if plain is None else [*said, _beside(metrics, plain)]


def _constraint(run: Run) -> Statement:
    reached, target = plain_number(run.metrics["train"]["relative_distortion"]), run.settings.target
    if reached is None:
        text = "Training spots form no pairs whose distances vary."
        return Statement("caution", "Distances could not be measured", text)
    off = f"On training spots, latent distances differ from λ times those in tissue by {reached:.0%}"
    if target is None:
        asked = run.settings.distortion
        free = asked is None or (isinstance(asked, Penalty) and not asked.weight)
        how = "distances were not constrained" if free else f"a {asked} was applied to them"
        return Statement("note", "No tolerance was set", f"{off}; {how}.")
    if reached <= target * (1 + TOLERANCE):
        return Statement("good", "The constraint holds", f"{off}; {target:.0%} was tolerated.")
    return Statement(
        "caution",
        "The constraint was not reached",
        f"{off}, and {target:.0%} was tolerated. {_why(run.training)}",
    )


def _why(training: Mapping[str, Any]) -> str:
    """Why a constraint was missed, as the training recorded it."""
    if training.get("reason") is None:  # a run of 0.1.0
        return "The run does not record why."
    names = {field.name for field in fields(TrainingOutcome)}
    ended = TrainingOutcome(**{name: value for name, value in training.items() if name in names})
    if ended.reason == "met":
        return f"In training, with dropout, it was {ended.train_distortion:.0%}, which met the constraint."
    return f"In training, {ended.why}"


def _heldout(metrics: Metrics) -> Statement:
    if "heldout" not in metrics:
        text = (
            "All metrics are of training spots, whose geometry is largely memorised. Fit with holdout=0.25 "
            "to measure what holds for new spots."
        )
        return Statement("caution", "No spots were held out", text)
    found = metrics["heldout"]
    needed = ("spearman_distance", "relative_distortion", "distortion_constant")
    if any(plain_number(found.get(name)) is None for name in needed):
        text = (
            f"{metrics['n_heldout']:,} held-out spots form too few pairs to compare distances: pairs within "
            "sections, of spots at different positions, whose distances vary."
        )
        return Statement("caution", "Held-out spots could not be measured", text)
    text = (
        f"On {metrics['n_heldout']:,} spots that the fit never saw, distances differ by "
        f"{found['relative_distortion']:.0%} on average, and all but a tenth of the pairs keep theirs within "
        f"a factor of {found['distortion_constant']:.2f}. Rank correlation of distances: "
        f"{found['spearman_distance']:.2f}."
    )
    if found["spearman_distance"] < _UNRELATED:
        why = "Where training spots do better, they are memorised."
        return Statement("bad", "Held-out spots do not follow the tissue", f"{text} {why}")
    if found["spearman_distance"] < _LOOSE:
        return Statement("caution", "Held-out spots follow the tissue only loosely", text)
    return Statement("good", "Held-out spots follow the tissue", text)


def _certified(metrics: Metrics) -> Statement:
    found = metrics.get("certificate")
    if not found or plain_number(found["L"]) is None:
        why = (
            "no spots were held out"
            if "heldout" not in metrics
            else "too few spots at different positions were held out"
        )
        return Statement("caution", "Nothing is certified", f"There is no certificate: {why}.")
    text = (
        f"With {1 - found['delta']:.0%} confidence, all but {found['epsilon']:.0%} of the pairs of new spots "
        f"of this tissue keep their distance within a factor of {found['L']:.2f} (from {found['n_pairs']:,} "
        "disjoint pairs of held-out spots)."
    )
    approximate = plain_number(found.get("approximate_L"))
    if approximate is not None:
        limit = f"approximate {1 - found['delta']:.0%} limit (bootstrap over cells)"
        text += f" The {limit} is a factor of {approximate:.2f}, which is no guarantee."
    if found["epsilon"] > CERTIFIED_EPSILON:
        enough = f"{cells_needed(CERTIFIED_EPSILON)} held-out spots would do for {CERTIFIED_EPSILON:.0%}."
        return Statement("caution", "Little is certified", f"{text} {enough}")
    if found["L"] > _VAGUE:
        return Statement("caution", "Little is certified", text)
    return Statement("good", "What is certified", text)


def _health(metrics: Metrics, latent: NDArray) -> Statement:
    unused = np.flatnonzero(np.var(latent, axis=0) < ACTIVE_VARIANCE) + 1
    elbo, reconstruction = (plain_number(metrics["all"][name]) for name in ("elbo", "reconstruction"))
    if elbo is None or reconstruction is None:
        text = "The likelihood of the counts is not finite."
        return Statement("caution", "The latent representation could not be judged", text)
    n, kl = latent.shape[1], max(elbo - reconstruction, 0.0)
    text = f"{n - len(unused)} of {n} latent dimensions are in use, with {kl:.2g} nats per spot (KL)."
    if len(unused) == n or kl < _COLLAPSED_KL:
        why = "It says next to nothing about the spots: train longer, or raise the target."
        return Statement("bad", "The latent representation has collapsed", f"{text} {why}")
    if len(unused):
        why = f"Unused: {', '.join(map(str, unused))}. They do no harm; a smaller n_latent would do."
        return Statement("caution", "Some latent dimensions are unused", f"{text} {why}")
    return Statement("good", "The latent representation is healthy", text)


def _beside(metrics: Metrics, plain: Metrics) -> Statement:
    part = "heldout" if "heldout" in metrics else "all"
    ours, theirs = metrics[part], plain[part]
    changes = []
    for key, name in _COMPARED.items():
        mine, other = plain_number(ours.get(key)), plain_number(theirs.get(key))
        if mine is not None and other is not None:
            changes.append(f"{name} {_change(mine, other)}")
    where = "held-out" if part == "heldout" else "all"
    return Statement("note", "Compared with the plain backbone", f"On {where} spots: {'; '.join(changes)}.")


def _change(ours: float, theirs: float) -> str:
    change = (ours - theirs) / abs(theirs) if theirs else 0.0
    if abs(change) < _ALIKE:
        return f"the same within {_ALIKE:.0%}"
    return f"{abs(change):.0%} {'lower' if change < 0 else 'higher'}"
