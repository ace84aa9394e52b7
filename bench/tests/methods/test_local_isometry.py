from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from isovi import InputError
from isovi.model.training import WARM_UP_EPOCHS
from isovi.spots import SPLIT_KEY
from isovi_bench.methods import local_isometry
from isovi_bench.methods.local_isometry import SPAN, Bound, LocalObjective, bound_of, graph
from isovi_bench.task import Task, find

BOUND = Bound(train=100.0, validation=110.0, allowance=2.0)


def ascended(reconstruction: float, steps: int = 1) -> LocalObjective:
    """The objective after steps at which reconstruction was the same."""
    objective = LocalObjective(BOUND)
    for _ in range(steps):
        objective.watch(torch.tensor(reconstruction))
        objective.ascend()
    return objective


@given(excess=st.floats(1e-3, 1e6))
def test_the_multiplier_rises_while_reconstruction_is_worse_than_its_bound(excess: float) -> None:
    start = LocalObjective(BOUND).constraint_multiplier
    assert ascended(BOUND.train + excess).constraint_multiplier > start
    assert ascended(BOUND.train - excess).constraint_multiplier < start


def test_the_multiplier_rests_at_the_bound_and_before_anything_is_known() -> None:
    start = LocalObjective(BOUND)
    assert ascended(BOUND.train, steps=50).constraint_multiplier == pytest.approx(start.constraint_multiplier)
    start.ascend()
    assert start.constraint_multiplier == pytest.approx(1 / BOUND.allowance)


@given(reconstruction=st.floats(-1e6, 1e6), steps=st.integers(1, 400))
def test_the_multiplier_does_not_leave_its_span(reconstruction: float, steps: int) -> None:
    found = ascended(reconstruction, steps).constraint_multiplier * BOUND.allowance
    assert 0.999 / SPAN <= found <= 1.001 * SPAN


def test_what_is_watched_is_a_running_average() -> None:
    objective = LocalObjective(BOUND)
    for value in (10.0, 20.0):
        objective.watch(torch.tensor(value))
    assert float(objective.reconstruction) == pytest.approx(11.0)


@given(relative=st.floats(0.0, 5.0), below=st.floats(0.0, 1e4), above=st.floats(1e-3, 1e4))
def test_merit_is_distortion_where_the_bound_holds_and_dearer_elsewhere(
    relative: float, below: float, above: float
) -> None:
    objective, distortion = LocalObjective(BOUND), torch.tensor(relative)
    held = objective.merit(distortion, torch.tensor(BOUND.validation - below))
    broken = objective.merit(distortion, torch.tensor(BOUND.validation + above))
    assert float(held) == pytest.approx(relative)
    assert float(broken) == pytest.approx(relative + above / BOUND.allowance, rel=1e-2, abs=1e-4)
    assert float(objective.merit(None, torch.tensor(BOUND.validation))) == 1.0


class Plain:
    """What is read of a trained model."""

    def __init__(self, history: dict[str, list[float]], n_vars: int) -> None:
        self.history_ = {name: pd.DataFrame({name: values}) for name, values in history.items()}
        self.summary_stats = pd.Series({"n_vars": n_vars})


def test_the_allowance_is_what_so_much_more_residual_variance_costs() -> None:
    n_genes, slack = 7, 0.3
    history = {"reconstruction_loss_train": [5.0, 4.0], "elbo_train": [6.0, 5.0]}
    bound = bound_of(Plain(history, n_genes), slack)
    residuals = np.random.default_rng(0).normal(size=(50, n_genes))
    cost = []
    for factor in (1.0, 1 + slack):
        values = torch.as_tensor(residuals * math.sqrt(factor))
        spread = values.square().mean(dim=0).sqrt()
        cost.append(-float(Normal(0.0, spread).log_prob(values).sum(dim=1).mean()))
    assert bound.allowance == pytest.approx(cost[1] - cost[0])
    assert bound.train == bound.validation == pytest.approx(4.0 + bound.allowance), "of the last epoch"


def test_the_bound_is_that_of_the_epoch_that_the_plain_model_kept() -> None:
    history = {
        "elbo_validation": [9.0, 7.0, 8.0],
        "reconstruction_loss_train": [6.0, 5.0, 4.0],
        "reconstruction_loss_validation": [8.0, 6.0, 7.0],
    }
    bound = bound_of(Plain(history, 4), 0.1)
    assert (bound.train - bound.allowance, bound.validation - bound.allowance) == pytest.approx((5.0, 6.0))


def test_training_spots_are_joined_with_training_spots_only(task: Task) -> None:
    found = graph(task, 5).tocoo()
    part = task.seen.obs[SPLIT_KEY].to_numpy()
    assert found.nnz > 0
    assert (part[found.row] == part[found.col]).all()
    assert set(part[found.row]) == {"train", "validation"}


def test_distances_are_bought_with_reconstruction_up_to_the_bound(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_isometry, "ASCENT_RATE", 0.4)  # there is one minibatch an epoch
    task = make_task(max_epochs=40)
    found = find("local-isometry").fit(task, slack=1.0, n_layers=1, n_hidden=32, dropout_rate=0.0)
    history = {name: values.to_numpy(float).ravel() for name, values in found.model.history_.items()}
    weight, loss = history["multiplier_train"], history["reconstruction_loss_train"]
    assert loss[0] < found.model.module.objective.bound.train, "it begins where the plain model ended"
    assert (np.diff(weight[WARM_UP_EPOCHS : WARM_UP_EPOCHS + 14]) > 0).all()
    distortion = history["relative_distortion_train"]
    assert distortion[-5:].mean() < 0.9 * distortion[:5].mean()
    bound, of = found.model.module.objective.bound, "validation"  # one minibatch
    excess = (history[f"reconstruction_loss_{of}"] - bound.validation) / bound.allowance
    np.testing.assert_allclose(
        history[f"merit_{of}"], history[f"relative_distortion_{of}"] + excess.clip(min=0), rtol=1e-3
    )


@pytest.mark.parametrize("slack", [0.0, -0.1, math.inf, math.nan])
def test_a_slack_that_leaves_no_room_is_refused(task: Task, slack: float) -> None:
    with pytest.raises(InputError, match=r"slack=.* more than 0"):
        find("local-isometry").fit(task, slack=slack)
