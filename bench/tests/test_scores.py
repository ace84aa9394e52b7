"""Scores of what users do with a method, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from isovi import tl
from isovi_bench import scores

RNG = np.random.default_rng(0)
SIDE = 16
AT = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2).astype(float)
HALF = np.where(AT[:, 0] < SIDE / 2, "left", "right").astype(object)


@pytest.fixture(scope="module")
def graph():
    """Neighbours on a square lattice."""
    return tl.spatial_neighbors(AT, np.zeros(len(AT), dtype=np.int64))


def test_domains_that_are_the_labels_agree_and_noise_does_not(graph) -> None:
    tiles = (AT[:, 1] >= SIDE / 2).astype(int)
    true = scores.domain_scores(HALF, HALF, graph, tiles)
    noise = scores.domain_scores(RNG.integers(0, 2, len(AT)), HALF, graph, tiles)
    assert true["ari"] == true["nmi"] == pytest.approx(1) and abs(noise["ari"]) < 0.05
    assert true["smoothness"] > 0.9 and abs(noise["smoothness"] - 0.5) < 0.06
    assert abs(true["tiles"]) < 0.05
    unlabelled = scores.domain_scores(tiles, None, graph, tiles)
    assert set(unlabelled) == {"smoothness", "tiles"} and unlabelled["tiles"] == 1


def test_labels_pass_to_neighbours_and_not_through_noise() -> None:
    asked = scores.hidden_labels(HALF, seed=1)
    assert asked.sum() == len(AT) // 4
    found = scores.transfer_scores(AT, HALF, asked)
    lost = scores.transfer_scores(RNG.normal(size=(len(AT), 3)), HALF, asked)
    assert found["label_accuracy"] > 0.9 and found["label_f1"] > 0.9
    assert lost["label_accuracy"] < 0.7


def test_a_label_without_a_value_is_neither_given_nor_asked() -> None:
    labels = HALF.copy()
    labels[::2] = None
    asked = scores.hidden_labels(labels, seed=0)
    assert not asked[::2].any() and asked.any()
    assert scores.transfer_scores(AT, labels, np.ones(len(AT), dtype=bool)) == {}
    latent = AT.copy()
    latent[asked] = np.nan
    assert scores.transfer_scores(latent, labels, asked) == {}


def test_a_rare_label_counts_as_much_as_a_common_one() -> None:
    labels = np.where(np.arange(200) < 190, "common", "rare").astype(object)
    latent = np.zeros((200, 1))
    found = scores.transfer_scores(latent, labels, np.arange(200) % 2 == 1)
    assert found["label_accuracy"] == pytest.approx(0.95) and found["label_f1"] < 0.5


def test_mixed_groups_score_better_than_separate_ones_and_labels_the_other_way_round() -> None:
    groups = np.where(np.arange(240) % 2, "a", "b").astype(object)
    labels = np.where(np.arange(240) < 120, "x", "y").astype(object)
    labels[0] = None
    noise = RNG.normal(size=(240, 4))
    by_label = noise + 6.0 * (np.arange(240) < 120)[:, None]
    by_group = noise + 6.0 * (np.arange(240) % 2)[:, None]
    good, bad = (scores.integration_scores(latent, groups, labels) for latent in (by_label, by_group))
    assert set(good) == {"silhouette_label", "clisi", "silhouette_batch", "graph_connectivity"}
    assert all(good[name] > bad[name] for name in good)
    assert scores.integration_scores(noise, groups, None) == {}
    assert scores.integration_scores(noise, np.zeros(240), labels) == {}


def test_positions_come_back_into_the_frame_of_the_truth() -> None:
    truth = AT * 2.5 + [30, -4]
    given = (AT - AT.mean(axis=0))[RNG.permutation(len(AT))]  # in any order: a control has them shuffled
    np.testing.assert_allclose(scores.in_frame(AT - AT.mean(axis=0), given, truth), truth)


def test_errors_of_positions_are_medians_of_those_that_were_placed() -> None:
    found = AT + np.array([3.0, 4.0])
    found[::2] = np.nan
    values = scores.placement_scores(found, AT)
    assert values["placed_error"] == pytest.approx(5) and values["placed_aligned"] == pytest.approx(
        0, abs=1e-6
    )
    assert values["placed_contacts"] == pytest.approx(1)
    assert scores.placement_scores(np.full_like(AT, np.nan), AT) == {}


# ---------------------------------------------------------------------------- denoising


@pytest.fixture(scope="module")
def molecules():
    """Expression of each spot, and its molecules seen and held out."""
    expression = RNG.dirichlet(np.full(20, 0.3), size=300)
    counts = RNG.poisson(400 * expression)
    heldout = RNG.binomial(counts, 0.2)
    return expression, sparse.csr_matrix(counts - heldout), sparse.csr_matrix(heldout)


def test_the_true_expression_predicts_held_out_molecules_best(molecules) -> None:
    expression, seen, heldout = molecules
    mean = np.repeat(np.asarray(seen.sum(axis=0)).reshape(1, -1), len(expression), axis=0)
    other = expression[np.random.default_rng(1).permutation(len(expression))]
    true, average, wrong = (
        scores.denoising_scores(estimate, seen, heldout, 0.2) for estimate in (expression, mean, other)
    )
    for name in ("molecule_loss", "molecule_deviance"):
        assert true[name] < average[name] < wrong[name]
    assert scores.denoising_scores(7 * expression, seen, heldout, 0.2) == pytest.approx(true)


def test_the_deviance_is_that_of_its_formula(molecules) -> None:
    expression, seen, heldout = molecules
    y = heldout.toarray().astype(float)
    at = np.argwhere(y == 0)[0]  # a zero that is stored counts as any other
    stored = heldout.tocoo()
    places = (np.append(stored.row, at[0]), np.append(stored.col, at[1]))
    heldout = sparse.csr_matrix((np.append(stored.data, 0), places), shape=y.shape)
    prior = np.asarray(seen.sum(axis=0), dtype=float).ravel() + 1
    estimate = (1 - scores.RARE) * expression + scores.RARE * prior / prior.sum()
    mu = np.asarray(seen.sum(axis=1)) * 0.25 * estimate
    logs = np.where(y > 0, y * np.log(np.maximum(y, 1) / mu), 0.0)
    expected = 2 * (logs - y + mu).mean()
    found = scores.denoising_scores(expression, seen, heldout, 0.2)
    assert found["molecule_deviance"] == pytest.approx(expected)
    assert found["molecule_loss"] == pytest.approx(-(y * np.log(estimate)).sum() / y.sum())


def test_a_gene_that_an_estimate_rules_out_costs_a_finite_amount(molecules) -> None:
    _, seen, heldout = molecules
    found = scores.denoising_scores(np.eye(20)[np.zeros(300, dtype=int)], seen, heldout, 0.2)
    assert np.isfinite(list(found.values())).all()
    assert scores.denoising_scores(np.full((300, 20), np.nan), seen, heldout, 0.2) == {}
