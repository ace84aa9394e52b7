"""A thousand runs of any outcome: no page, log or comparison has two sentences that disagree."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isovi import compare, pipeline
from isovi.model.objective import Constraint, Penalty
from isovi.model.training import Reason, TrainingOutcome
from isovi.progress import Progress
from isovi.report import render
from isovi.report.summarise import Report, facts
from isovi.run import Provenance, Run, Settings
from isovi.verdict import verdict

N = 1_000
DISAGREE = [
    (r"The constraint holds", r"not reached|not met"),
    (
        r"The constraint holds\b(?! on training)",
        r"memorised|follow the tissue only|off by more|could not be measured",
    ),
    (r"Held-out spots follow the tissue(?! only)", r"do not follow|only loosely|off by more|memorised"),
    (r"Training has converged", r"[Tt]rain longer|more epochs|still fell|still rising"),
    (r"Distances are certified", r"Little is certified|Nothing is certified|no certificate"),
    (r"Held-out spots could not be measured", r"Distances are certified|Held-out spots are at"),
    (r"No spots were held out", r"[Hh]eld-out geometry|that the fit never saw|Held-out spots are at"),
    (r"No tolerance was set", r"was tolerated"),
    (r"All latent dimensions are in use", r"Unused:|collapsed"),
]  # no text has both


def one_of(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[rng.integers(len(values))]


def a_run(rng: np.random.Generator) -> Run:
    """A run of which each part is good, bad, missing or at a threshold, whatever the others are."""
    target = float(rng.choice([0.1, 0.2, 0.4]))
    asked = one_of(rng, [Constraint(target), Constraint(target), Penalty(0.0), Penalty(30.0), None])
    near = [target, 1.05 * target, 1.5 * target, 0.3, 3 * target, float(rng.uniform(0, 1)), None]
    measured = {
        "relative_distortion": one_of(rng, near),
        "distortion_constant": one_of(rng, [1.2, 5.0, 15.9, float("inf")]),
        "spearman_distance": one_of(rng, [-0.1, 0.1, 0.3, 0.5, 0.9, None]),
        "reconstruction": 100.0,
        "coordinate_error": 3.0,
    }
    heldout = {"heldout": {k: np.nan if v is None else v for k, v in measured.items()}}
    certificate = {
        "epsilon": float(rng.choice([0.1, 0.3])),
        "L": float(rng.choice([1.5, 5.0, 15.9, np.inf])),
        "delta": 0.05,
        "n_pairs": 50,
    }
    held = rng.random() < 0.8
    train = one_of(rng, [*near, 0.9 * target, 0.5 * target])
    everything = {"elbo": float(rng.choice([100.05, 110.0, np.nan])), "reconstruction": 100.0}
    metrics = {
        "n_obs": 50, "n_train": 40, "n_validation": 5, "n_heldout": 5 if held else 0, "n_genes": 9,
        "n_domains": 2, "distance_scale": 1.0,
        "train": {"relative_distortion": train},
        "all": {**everything, "spearman_distance": 0.5, "coordinate_error": 3.0},
        **(heldout if held else {}),
        "certificate": certificate if held and rng.random() < 0.8 else {},
    }  # fmt: skip
    epochs = int(rng.choice([0, 3, 12, 100]))
    loss = 110 + rng.choice([0.0, 0.1, 5.0]) * np.arange(epochs)[::-1] + rng.normal(size=epochs)
    ended = TrainingOutcome(
        epochs, max(1, epochs - 1), float(rng.uniform(0, 1)), target=target, limit=40.0, limited_epoch=2,
        reason=one_of(rng, [*get_args(Reason)]), multiplier=float(rng.choice([0.0, 3.0])),
        stalled_epoch=3, lowest_validation_distortion=0.3,
    )  # fmt: skip
    ended = ended if isinstance(asked, Constraint) else replace(ended, reason=None, target=None)
    training = {"summary": str(ended), **(vars(ended) if rng.random() < 0.8 else {})}  # or of 0.1.0
    run = Run(
        settings=Settings(distortion=asked),
        metrics=metrics,
        provenance=Provenance(
            sha256="", seconds=1.0, versions={}, platform=""
        ),  # looked up each time otherwise
        history=pd.DataFrame({"elbo_validation": loss}),
        training=training,
    )
    latent = rng.normal(size=(50, 10))
    latent[:, : int(rng.choice([0, 0, 2, 10]))] *= 0.01
    run.adata = AnnData(
        obs=pd.DataFrame({"isovi_split": "train"}, index=[str(i) for i in range(50)]),
        obsm={"X_isovi": latent},
    )
    run.adata.obsm["spatial"] = rng.normal(size=(50, 2))
    return run


class Recorded(Progress):
    """A log that is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def texts(written: Report) -> list[tuple[Run, str, str]]:
    """Of each run: its page, and what log and comparison say."""
    patch, rng = pytest.MonkeyPatch(), np.random.default_rng(0)
    patch.setattr(render, "_own_files", lambda: {"bokeh": [], "style": "", "script": "", "ramps": {}})
    found = []
    for _ in range(N):
        run, log = a_run(rng), Recorded()
        summary = replace(
            written.summary, verdict=verdict(run).statements(), facts=facts(run), target=run.settings.target
        )
        page = html.unescape(re.sub(r"<[^>]+>", " ", render.page(summary, written, charts={}, documents={})))
        log.say(pipeline.in_epochs(run.training))
        pipeline.report_metrics(run, log)
        compared = compare.compare([run]).attrs["verdicts"]
        found.append((run, page, "\n".join([*log.lines, *compared.values()])))
    patch.undo()
    return found


def test_no_two_sentences_disagree(texts: list[tuple[Run, str, str]]) -> None:
    for _, page, said in texts:
        everything = f"{page}\n{said}"
        for one, other in DISAGREE:
            both = [re.search(pattern, everything) for pattern in (one, other)]
            assert not all(both), f"{both} in {said}"


def test_every_sentence_that_may_disagree_occurs(texts: list[tuple[Run, str, str]]) -> None:
    """Or the patterns above would say nothing."""
    everything = "\n".join(f"{page}\n{said}" for _, page, said in texts)
    patterns = {part for pair in DISAGREE for pattern in pair for part in pattern.split("|")}
    never = {part for part in patterns if not re.search(part, everything)}
    assert never == {"not met"}  # which only the summary of training says


def test_green_is_within_the_stated_thresholds(texts: list[tuple[Run, str, str]]) -> None:
    for run, page, _ in texts:
        judged = verdict(run)
        by_title = {said.title: said.status for said in judged.statements()}
        green = {title for title, status in by_title.items() if status == "good"}
        assert ("The constraint holds" in green) <= (
            judged.train <= 1.05 * judged.target if judged.train and judged.target else False
        )
        if {"The constraint holds", "Held-out spots follow the tissue"} & green:
            assert judged.heldout <= 1.5 * (judged.target or 0.2) and judged.spearman >= 0.5
        if "Distances are certified" in green:
            assert judged.certificate["L"] <= 5 and judged.certificate["epsilon"] <= 0.1
        assert all(title in page for title in by_title)


def test_numbers_of_one_quantity_are_one_number(texts: list[tuple[Run, str, str]]) -> None:
    for _, page, said in texts:
        heldout = set(re.findall(r"Held-out spots are at ([\d.]+)%|held-out spots are at ([\d.]+)%", page))
        heldout = {a or b for a, b in heldout} | set(re.findall(r"tissue by ([\d.]+)% on average", page))
        heldout |= {f"{100 * float(v):.1f}" for v in re.findall(r"relative distortion ([\d.]+);", said)}
        assert len(heldout) <= 1


def test_log_and_comparison_have_the_same_headline(texts: list[tuple[Run, str, str]]) -> None:
    for run, _, said in texts:
        lines = said.splitlines()
        assert lines[-2] == f"Verdict: {lines[-1]}" and lines[-1] == verdict(run).headline()
        assert lines[-1].split(":")[0] in ("good", "caution", "problem")
