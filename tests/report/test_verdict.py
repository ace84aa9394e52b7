"""The verdict says what the metrics say, good or bad."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isovi.model.objective import Constraint, Distortion, Penalty
from isovi.model.training import TrainingOutcome
from isovi.report.record import Statement
from isovi.report.verdict import verdict
from isovi.run import Provenance, Run, Settings

GOOD: dict[str, Any] = {
    "n_heldout": 400,
    "train": {"relative_distortion": 0.18},
    "heldout": {
        "relative_distortion": 0.3,
        "distortion_constant": 4.8,
        "spearman_distance": 0.6,
        "coordinate_error": 8.0,
        "reconstruction": 100.0,
    },
    "all": {"elbo": 110.0, "reconstruction": 100.0},
    "certificate": {"epsilon": 0.1, "L": 6.85, "delta": 0.05, "n_pairs": 200},
}
LATENT = np.random.default_rng(0).normal(size=(50, 4))


def said(
    changes: dict[str, Any] | None = None,
    *,
    latent: np.ndarray = LATENT,
    plain: dict[str, Any] | None = None,
    distortion: Distortion | None = Constraint(0.2),  # noqa: B008  # frozen
    training: dict[str, Any] | None = None,
) -> list[Statement]:
    metrics = copy.deepcopy(GOOD)
    for key, value in (changes or {}).items():
        metrics[key] = {**metrics[key], **value} if isinstance(value, dict) and value else value
        if value is None:
            del metrics[key]
    run = Run(
        settings=Settings(distortion=distortion),
        metrics=metrics,
        provenance=Provenance(sha256=""),
        history=pd.DataFrame(),
        training=training or {},
    )
    run.adata = AnnData(obsm={"X_isovi": latent})
    return verdict(run, plain)


def test_a_good_run_is_good_throughout() -> None:
    found = said()
    assert [one.status for one in found] == ["good"] * 4
    constraint, heldout, certified, health = (one.text for one in found)
    assert "18%" in constraint and "20% was tolerated" in constraint
    assert "400 spots" in heldout and "30%" in heldout and "4.80" in heldout
    assert "95% confidence" in certified and "6.85" in certified and "all but 10%" in certified
    assert "4 of 4" in health and "10 nats" in health


def test_a_constraint_that_was_missed_is_told() -> None:
    missed = said({"train": {"relative_distortion": 0.25}})[0]
    assert missed.status == "caution" and "not reached" in missed.title
    assert said({"train": {"relative_distortion": 0.205}})[0].status == "good"  # training's own tolerance


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"reason": "limit", "limit": 40.0, "limited_epoch": 20}, ["limit of 40", "epoch 20", "Loosen"]),
        (
            {"reason": "stalled", "stalled_epoch": 30, "lowest_validation_distortion": 0.4},
            ["frozen in epoch 30"],
        ),
        ({"reason": "selection"}, ["it held in other epochs"]),
        ({"reason": "epochs", "multiplier": 1.0}, ["still rising", "Train for more epochs"]),
        ({"reason": "met", "train_distortion": 0.21}, ["with dropout, it was 21%"]),
        (None, ["does not record why"]),
    ],
)
def test_a_missed_constraint_has_the_reason_that_training_recorded(
    recorded: dict[str, Any] | None, words: list[str]
) -> None:
    outcome = None if recorded is None else {**asdict(TrainingOutcome(50, 40, target=0.2)), **recorded}
    training = {"summary": "Trained 50 epochs.", **(outcome or {})}
    text = said({"train": {"relative_distortion": 0.25}}, training=training)[0].text
    assert all(word in text for word in words)
    assert ("more epochs" in text) == (outcome is not None and outcome["reason"] == "epochs")


@pytest.mark.parametrize(
    ("distortion", "words"),
    [
        (None, "not constrained"),
        (Penalty(0.0), "not constrained"),
        (Penalty(0.0, relative=False), "not constrained"),
        (Penalty(30.0), "a penalty 30 was applied"),
    ],
)
def test_without_a_target_nothing_holds_or_fails(distortion: Distortion | None, words: str) -> None:
    first = said(distortion=distortion)[0]
    assert first.status == "note" and words in first.text


def test_the_target_is_that_of_the_settings_whatever_else_they_hold() -> None:
    constraint = said(distortion=Constraint(0.1, distance="wasserstein", per_section=True))[0]
    assert constraint.status == "caution" and "10% was tolerated" in constraint.text


@pytest.mark.parametrize("unknown", [None, float("nan")])  # as in metrics.json, and in memory
def test_held_out_spots_without_pairs_do_no_harm(unknown: float | None) -> None:
    nothing = dict.fromkeys(GOOD["heldout"], unknown)
    found = said({"n_heldout": 1, "heldout": nothing, "certificate": {}}, plain=GOOD)
    assert found[1].status == "caution" and found[1].text.startswith("1 held-out spots")
    assert "nan" not in " ".join(one.text for one in found)


def test_memorised_geometry_is_called_that() -> None:
    heldout = said({"heldout": {"spearman_distance": 0.02}})[1]
    assert heldout.status == "bad" and "memorised" in heldout.text
    assert said({"heldout": {"spearman_distance": 0.2}})[1].status == "caution"


def test_without_held_out_spots_nothing_is_claimed() -> None:
    found = said({"heldout": None, "certificate": {}})
    assert [one.status for one in found[1:3]] == ["caution", "caution"]
    assert "memorised" in found[1].text and "no spots were held out" in found[2].text


def test_the_approximate_limit_is_no_guarantee() -> None:
    text = said({"certificate": {"approximate_L": 5.5}})[2].text
    assert "approximate 95% limit (bootstrap over cells) is a factor of 5.50, which is no guarantee" in text
    assert "approximate" not in said({})[2].text


def test_few_held_out_spots_certify_little() -> None:
    certified = said({"certificate": {"epsilon": 0.26}})[2]
    assert certified.status == "caution" and "58 held-out spots would do for 10%" in certified.text
    assert said({"certificate": {"L": 40.0}})[2].status == "caution"
    assert "too few" in said({"certificate": {}})[2].text


def test_unused_dimensions_are_named_and_a_collapse_is_a_problem() -> None:
    latent = LATENT.copy()
    latent[:, 2] *= 0.01
    unused = said(latent=latent)[3]
    assert unused.status == "caution" and "Unused: 3." in unused.text
    assert said(latent=0.01 * LATENT)[3].status == "bad"
    assert said({"all": {"elbo": 100.01}})[3].status == "bad"


def test_the_plain_backbone_stands_beside() -> None:
    plain = copy.deepcopy(GOOD)
    plain["heldout"].update(coordinate_error=10.0, relative_distortion=0.2, reconstruction=100.1)
    beside = said(plain=plain)[4]
    assert "coordinate error 20% lower" in beside.text
    assert "relative distortion 50% higher" in beside.text
    assert "reconstruction loss the same within 1%" in beside.text


# ---------------------------------------------------------------------------- what is not a number


def test_distances_that_cannot_be_compared_are_said() -> None:
    first = said({"train": {"relative_distortion": None}})[0]
    assert (first.status, first.title) == ("caution", "Distances could not be measured")


@pytest.mark.parametrize("missing", [None, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["distortion_constant", "relative_distortion", "spearman_distance"])
def test_held_out_metrics_that_are_missing_are_said(name: str, missing: float | None) -> None:
    _, heldout, certified, _ = said(
        {"heldout": {name: missing}, "certificate": {"L": missing, "n_pairs": 12}}
    )
    assert (heldout.status, heldout.title) == ("caution", "Held-out spots could not be measured")
    assert (certified.status, certified.title) == ("caution", "Nothing is certified")
    assert not re.search(r"\b(None|inf|nan)\b", heldout.text + certified.text)


def test_a_likelihood_that_is_not_finite_is_said() -> None:
    last = said({"all": {"elbo": None}})[-1]
    assert (last.status, last.title) == ("caution", "The latent representation could not be judged")
