from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from isovi.errors import InputError
from isovi.spots import HELDOUT, Spots
from isovi.tl.evaluate import evaluate_geometry
from isovi_bench import measure as module
from isovi_bench import metrics
from isovi_bench.measure import (
    FURTHER,
    FURTHER_GROUPS,
    METRIC_NAMES,
    agreement,
    leiden,
    measure,
    mixing,
    purity,
)
from isovi_bench.prepare import Prepared
from isovi_bench.task import Fitted, Task

SIDE = 20
GEOMETRY = {"morans_i", "gearys_c", "relative_distortion", "spearman_distance", "distortion_constant"}
GEOMETRY |= {"anisotropy"}
DOMAINS = FURTHER_GROUPS["domains"]
LABELS = {f"{name}_{by}" for name in ("nmi", "ari", "purity") for by in ("leiden", "mixture")}


def prepared(*, labels: bool = True, sections: int = 1, heldout: float = 0.4) -> Prepared:
    """A grid of spots whose label is the half that they lie in."""
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2)
    at = at + rng.uniform(-0.1, 0.1, at.shape)
    drawn = rng.uniform(size=len(at))
    split = np.select([drawn < heldout, drawn > 0.93], ["heldout", "validation"], "train").astype("<U10")
    section = np.arange(len(at)) % sections
    spots = AnnData(sparse.csr_matrix(np.ones((len(at), 2), dtype=np.float32)))
    spots.obs["section"] = pd.Categorical(section.astype(str))
    rows = np.flatnonzero(split != HELDOUT)
    named = np.where(at[:, 0] < SIDE / 2, "left", "right").astype(object) if labels else None
    return Prepared(Task(spots[rows].copy(), spots, rows, 0, 2), Spots(at, section, split=split), named)


def apart(given: Prepared) -> np.ndarray:
    """A latent that is the tissue, with its halves far apart."""
    latent = given.placement.coordinates.copy()
    latent[latent[:, 0] > SIDE / 2] += [100, 0]
    return latent


# ---------------------------------------------------------------------------- sets


def test_each_set_has_all_its_figures() -> None:
    found = measure(Fitted(3 * prepared().placement.coordinates), prepared())
    assert set(found["train"]) == set(found["all"]) == GEOMETRY | LABELS
    assert set(found["heldout"]) == GEOMETRY | LABELS | {"coordinate_error", "certified_constant"}
    assert {name for figures in found.values() for name in figures} <= set(METRIC_NAMES)
    for figures in found.values():
        assert figures["relative_distortion"] == pytest.approx(0, abs=1e-6)
    assert found["heldout"]["certified_constant"] == pytest.approx(1, abs=1e-3)


def test_spots_that_a_method_cannot_place_leave_only_the_training_set() -> None:
    given = prepared()
    latent = given.placement.coordinates @ np.array([[1.0, 0.4], [0.0, 0.5]])
    whole = measure(Fitted(latent), given)
    latent[given.placement.split == HELDOUT] = np.nan
    found = measure(Fitted(latent), given)
    assert found == {"train": whole["train"]}


def test_a_control_is_held_against_the_positions_that_it_was_given() -> None:
    true = prepared(labels=False)
    order = np.random.default_rng(1).permutation(len(true.task.rows))
    seen = true.task.seen.copy()
    seen.obsm["spatial"] = true.placement.coordinates[true.task.rows][order]
    given = replace(true, task=replace(true.task, seen=seen), shuffled=True)
    found = measure(Fitted(given.as_given().coordinates), given)
    assert found["train"]["spearman_distance"] == pytest.approx(1)
    assert found["heldout"]["spearman_distance"] == pytest.approx(1)
    assert not set(found["all"]) & GEOMETRY
    unmoved = measure(Fitted(true.placement.coordinates), given)
    assert abs(unmoved["train"]["spearman_distance"]) < 0.1


def test_the_figures_of_geometry_are_those_of_a_run() -> None:
    given = prepared(labels=False)
    latent = np.random.default_rng(1).normal(size=(SIDE**2, 4))
    found = measure(Fitted(latent), given, seed=3)
    for name, figures in evaluate_geometry(latent, given.placement, seed=3).items():
        assert {key: found[name][key] for key in figures} == figures


def test_without_held_out_spots_there_are_two_sets() -> None:
    given = prepared(heldout=0.0)
    assert set(measure(Fitted(given.placement.coordinates), given)) == {"train", "all"}


def test_only_what_is_asked_for_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "geometry", lambda *_: pytest.fail("nobody asked"))
    found = measure(Fitted(apart(prepared())), prepared(), metrics=("ari_leiden",))
    assert {name: set(figures) for name, figures in found.items()} == {
        name: {"ari_leiden"} for name in ("train", "heldout", "all")
    }


def test_a_model_is_asked_for_its_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def fit(model: object, adata: AnnData, placement: Spots, *, seed: int) -> dict[str, dict[str, float]]:
        asked.extend((model, adata.n_obs, seed))
        return {name: {"elbo": 1.0} for name in placement.subsets()}

    monkeypatch.setattr(module, "evaluate_fit", fit)
    given = prepared()
    found = measure(Fitted(apart(given), model="m"), given, seed=4, metrics=("elbo",))
    assert asked == ["m", SIDE**2, 4] and found["heldout"] == {"elbo": 1.0}


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (np.zeros((3, 2)), r"shape \(3, 2\).*each of the 400 spots"),
        (np.full((SIDE**2, 2), np.nan), "training spots is not finite"),
    ],
)
def test_a_latent_that_is_none_is_refused(latent: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure(Fitted(latent), prepared())


# ---------------------------------------------------------------------------- labels


def test_labels_that_lie_apart_are_found() -> None:
    found = measure(Fitted(apart(prepared())), prepared(), metrics=tuple(LABELS))
    for figures in found.values():
        assert figures == pytest.approx(dict.fromkeys(LABELS, 1.0))


def test_labels_that_a_latent_knows_nothing_of_are_not() -> None:
    labels = np.random.default_rng(0).choice(["a", "b"], SIDE**2).astype(object)
    found = agreement(apart(prepared()), labels, seed=0)
    assert abs(found["ari_leiden"]) < 0.05 and abs(found["ari_mixture"]) < 0.05
    assert 0.5 <= found["purity_leiden"] < 0.65


def test_unlabelled_spots_do_not_count() -> None:
    given = prepared()
    labels = given.labels.copy()
    labels[::4] = "undetermined"
    labels[1::7] = np.nan
    assert agreement(apart(given), labels, seed=0) == pytest.approx(dict.fromkeys(LABELS, 1.0))


def test_one_label_says_nothing() -> None:
    assert agreement(apart(prepared()), np.full(SIDE**2, "a", dtype=object), seed=0) == {}


def test_purity_by_hand() -> None:
    labels = np.array(["a", "a", "b", "b", "c"])
    assert purity(labels, np.array([0, 0, 0, 1, 1])) == pytest.approx(3 / 5)
    assert purity(labels, np.zeros(5)) == pytest.approx(2 / 5)
    assert purity(labels, np.arange(5)) == 1


def test_leiden_finds_as_many_as_asked_for_and_leaves_the_generator_alone() -> None:
    rng = np.random.default_rng(0)
    latent = np.concatenate([rng.normal(10 * centre, 1, (40, 3)) for centre in range(5)])
    random.seed(1)
    state = random.getstate()
    first, again = (leiden(latent, 5, seed=2) for _ in range(2))
    assert random.getstate() == state
    np.testing.assert_array_equal(first, again)
    assert [len(set(first[40 * k : 40 * k + 40])) for k in range(5)] == [1] * 5
    assert first.max() == 4


# ---------------------------------------------------------------------------- sections


def test_mixed_sections_are_told_from_separate_ones() -> None:
    rng = np.random.default_rng(0)
    latent, section = rng.normal(size=(300, 3)), np.repeat(["a", "b"], 150)
    mixed = mixing(latent, section)
    separate = mixing(latent + 100.0 * (section == "a")[:, None], section)
    assert mixed["ilisi"] > 0.8 > 0.2 > separate["ilisi"]
    assert mixed["kbet"] > 0.8 > 0.2 > separate["kbet"]


def test_mixing_is_measured_where_there_are_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        module, "mixing", lambda *given: sizes.append(tuple(map(len, given))) or {"ilisi": 1.0}
    )
    several, alone = prepared(sections=2), prepared()
    found = measure(Fitted(apart(several)), several, metrics=("ilisi",))
    assert found == {key: {"ilisi": 1.0} for key in ("train", "heldout", "all")}
    assert sizes[-1] == (SIDE**2, SIDE**2) and len(sizes) == 3
    measure(Fitted(apart(alone)), alone, metrics=("ilisi",))
    assert len(sizes) == 3


def test_too_few_spots_or_one_section_do_not_mix() -> None:
    section = np.repeat(["a", "b"], 40)
    assert mixing(np.zeros((80, 2)), section) == {}
    assert mixing(np.zeros((200, 2)), np.full(200, "a")) == {}


def test_tables_know_every_metric() -> None:
    assert len(set(METRIC_NAMES)) == len(METRIC_NAMES)
    assert set(METRIC_NAMES) <= set(metrics.METRICS)


# ---------------------------------------------------------------------------- what methods are used for


def test_metrics_of_uses_are_computed_only_where_they_are_named() -> None:
    given = prepared(heldout=0.0)
    named = measure(Fitted(apart(given)), given, metrics=FURTHER)
    assert set(named["all"]) == {*DOMAINS, "label_accuracy", "label_f1"}
    assert not set(measure(Fitted(apart(given)), given)["all"]) & set(FURTHER)
    assert set(FURTHER) <= set(metrics.METRICS)


def test_a_last_step_of_its_own_counts_beside_the_common_ones() -> None:
    given = prepared(heldout=0.0)
    noise = np.random.default_rng(0).normal(size=(SIDE**2, 3))
    own = Fitted(noise, domains=lambda: given.labels[given.task.rows])
    found = measure(own, given, metrics=DOMAINS)["all"]
    assert found["ari_own"] == pytest.approx(1) and found["smoothness_own"] > found["smoothness_leiden"]
    without = measure(Fitted(apart(given)), given, metrics=("ari_own", "ari_leiden"))["all"]
    assert without["ari_own"] == without["ari_leiden"]
    by_way = ("ari_own", "ari_leiden", "ari_mixture")
    taken = measure(Fitted(noise, domains="mixture"), given, metrics=by_way)["all"]
    assert taken["ari_own"] == taken["ari_mixture"] != taken["ari_leiden"]


def test_labels_of_held_out_spots_are_taken_from_the_training_spots() -> None:
    found = measure(Fitted(apart(prepared())), prepared(), metrics=("label_accuracy",))
    assert found["heldout"] == {"label_accuracy": pytest.approx(1)}


def test_a_method_without_a_latent_is_measured_by_its_positions() -> None:
    given = prepared()
    seen = given.task.seen.copy()
    seen.obsm["spatial"] = given.placement.coordinates[given.task.rows] / 2 - 7
    given = replace(given, task=replace(given.task, seen=seen))
    placed = given.placement.coordinates / 2 - 7 + [0.5, 0.0]
    found = measure(Fitted(None, positions=lambda: placed), given, metrics=FURTHER)
    assert set(found) == {"heldout"} and found["heldout"]["placed_error"] == pytest.approx(1)


def test_held_out_molecules_are_predicted_by_the_methods_own_expression() -> None:
    given = prepared(heldout=0.0)
    held = sparse.csr_matrix(np.tile([[3.0, 1.0]], (SIDE**2, 1)))
    given = replace(given, molecules=held, heldout_share=0.5)
    good, bad = (
        measure(
            Fitted(None, expression=lambda share=share: np.tile(share, (SIDE**2, 1))), given, metrics=FURTHER
        )
        for share in ([0.75, 0.25], [0.25, 0.75])
    )
    assert good["all"]["molecule_loss"] < bad["all"]["molecule_loss"]
