from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch

from isovi import Constraint, IsoviWarning, Penalty
from isovi.model.objective import Distortion, DistortionTerm, Objective
from isovi.model.training import (
    NOTICEABLE,
    PATIENCE,
    TOLERANCE,
    WARM_UP_EPOCHS,
    WARM_UP_STEPS,
    BestEpoch,
    CollapseWatch,
    DualAscent,
    outcome,
)

ASKED = Constraint(0.25)
PLAN = Mock(spec=pl.LightningModule)


def trainer_at(epoch: int = 0, step: int = 0, **metrics: float) -> Any:
    trainer = Mock(spec=pl.Trainer)
    trainer.is_last_batch = False
    trainer.current_epoch, trainer.global_step = epoch, step
    trainer.callback_metrics = {name: torch.tensor(value) for name, value in metrics.items()}
    trainer.strategy.reduce = lambda sums, **_: sums
    return trainer


def objective_of(asked: Distortion = ASKED, distortion: float = 0.6, spread: float = 3.0) -> Objective:
    objective = Objective(asked, 1)
    objective.running.copy_(torch.tensor([distortion, 200.0, spread]))
    objective.scale.fill_(0.5)
    return objective


def noted(objective: Objective, relative: float, n_cells: int = 10, known: bool = True) -> None:
    """A minibatch of this distortion."""
    numbers = (torch.tensor(value) for value in (0.0, relative, 1.0, known))
    with torch.set_grad_enabled(objective.training):  # as Lightning does
        objective.note(DistortionTerm(*numbers), n_cells)


# ------------------------------------------------------------------ dual ascent


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"epoch": WARM_UP_EPOCHS - 1, "step": 40}, {"epoch": WARM_UP_EPOCHS, "step": 44}),
        ({"epoch": 0, "step": WARM_UP_STEPS - 1}, {"epoch": 0, "step": WARM_UP_STEPS}),
    ],
    ids=["few cells", "many cells"],
)
def test_the_constraint_waits_for_some_epochs_or_many_steps(before: Any, after: Any) -> None:
    objective = objective_of()
    ascent = DualAscent(objective)
    ascent.on_train_batch_end(trainer_at(**before), PLAN)
    assert float(objective.multiplier) == 0
    ascent.on_train_batch_end(trainer_at(**after), PLAN)
    assert float(objective.multiplier) > 0


def test_the_figures_of_an_epoch_are_reported_once_at_its_last_minibatch() -> None:
    objective, plan = objective_of(), Mock(spec=pl.LightningModule)
    ascent = DualAscent(objective)
    noted(objective, math.nan, known=False)
    for last, relative, n_cells in ((False, 0.5, 30), (True, 0.2, 10)):
        noted(objective, relative, n_cells)
        trainer = trainer_at()
        trainer.is_last_batch = last
        ascent.on_train_batch_end(trainer, plan)
    ascent.on_train_epoch_end(trainer, plan)
    said = {call.args[0]: call.args[1] for call in plan.log.call_args_list}
    assert plan.log.call_count == len(said) == 3, "nothing is left for the end of the epoch"
    assert said["relative_distortion_train"] == pytest.approx(0.425)
    assert said["distance_scale_train"] == 0.5
    assert said["multiplier_train"] == 0


def pressed(asked: Distortion = ASKED, n_steps: int = 40) -> tuple[Objective, DualAscent]:
    """An objective whose multiplier has risen for some steps."""
    objective = objective_of(asked)
    ascent = DualAscent(objective)
    for _ in range(n_steps):
        ascent.on_train_batch_end(trainer_at(WARM_UP_EPOCHS), PLAN)
    ascent.on_train_epoch_end(trainer_at(WARM_UP_EPOCHS), PLAN)
    return objective, ascent


def at_validation(ascent: DualAscent, epoch: int, relative: float) -> None:
    ascent.objective.eval()
    noted(ascent.objective, relative)
    ascent.on_validation_epoch_end(trainer_at(epoch), PLAN)
    ascent.objective.train()


def validated(ascent: DualAscent, values: list[float]) -> None:
    for epoch, value in enumerate(values):
        at_validation(ascent, epoch, value)


def test_the_multiplier_is_frozen_where_held_out_distortion_stalls_above_the_target() -> None:
    objective, ascent = pressed()
    validated(ascent, [0.5] * (1 + PATIENCE))
    assert ascent.stalled_at == PATIENCE
    assert ascent.best == 0.5
    frozen = float(objective.multiplier)
    ascent.on_train_batch_end(trainer_at(60), PLAN)
    assert float(objective.multiplier) == pytest.approx(frozen)
    objective.running[0] = 0.1
    ascent.on_train_batch_end(trainer_at(60), PLAN)
    assert float(objective.multiplier) < frozen, "it may still fall"


@pytest.mark.parametrize(
    "values",
    [
        [0.5] * PATIENCE,
        [0.5 * (1 - 2 * NOTICEABLE) ** epoch for epoch in range(30)] + [0.3] * (PATIENCE - 1),
        [0.24] * (2 * PATIENCE),
    ],
    ids=["patient", "falling", "met"],
)
def test_the_multiplier_is_free_while_there_is_hope(values: list[float]) -> None:
    objective, ascent = pressed()
    limit = float(objective.log_limit)
    validated(ascent, values)
    assert ascent.stalled_at is None
    assert float(objective.log_limit) == limit > float(objective.log_multiplier)


def test_the_epoch_in_which_the_limit_is_reached_is_kept() -> None:
    objective, ascent = pressed()
    assert ascent.limited_at is None and not objective.at_limit
    for epoch in (30, 31):
        for _ in range(40):
            ascent.on_train_batch_end(trainer_at(epoch), PLAN)
        ascent.on_train_epoch_end(trainer_at(epoch), PLAN)
    assert ascent.limited_at == 30 and objective.at_limit


def test_a_frozen_multiplier_stays_frozen_after_an_interruption() -> None:
    objective, ascent = pressed()
    validated(ascent, [0.5] * (1 + PATIENCE))
    resumed = DualAscent(objective)
    resumed.load_state_dict(ascent.state_dict())
    frozen = float(objective.multiplier)
    resumed.on_train_batch_end(trainer_at(60), PLAN)
    assert float(objective.multiplier) == pytest.approx(frozen)
    assert (resumed.stalled_at, resumed.best) == (PATIENCE, 0.5)


def test_changes_too_small_to_notice_are_none() -> None:
    _, ascent = pressed()
    validated(ascent, [0.5 - 1e-5 * epoch for epoch in range(1 + PATIENCE)])
    assert ascent.stalled_at == PATIENCE


def test_the_epoch_of_the_stall_is_the_first() -> None:
    _, ascent = pressed()
    validated(ascent, [0.5] * (3 * PATIENCE))
    assert ascent.stalled_at == PATIENCE


def test_no_wait_is_counted_before_the_constraint_acts_or_without_validation() -> None:
    ascent = DualAscent(objective_of())
    validated(ascent, [0.5] * (2 * PATIENCE))
    assert ascent.waited == 0 and ascent.stalled_at is None
    _, ascent = pressed()
    for _ in range(2 * PATIENCE):
        ascent.on_validation_epoch_end(trainer_at(), PLAN)
    assert ascent.waited == 0 and ascent.stalled_at is None


def test_a_penalty_has_nothing_to_freeze() -> None:
    objective, ascent = pressed(Penalty(2.0))
    validated(ascent, [0.5] * (2 * PATIENCE))
    assert ascent.stalled_at is None
    assert float(objective.multiplier) == pytest.approx(2.0)


# ------------------------------------------------------------------ the best epoch


class Plan(pl.LightningModule):
    """A training plan around one number."""

    def __init__(self) -> None:
        super().__init__()
        self.module = torch.nn.Linear(1, 1, bias=False)

    def at(self, value: float) -> Plan:
        self.module.weight.data.fill_(value)
        return self


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_the_best_epoch_is_put_back(mode: str, best: int) -> None:
    plan, keeper = Plan(), BestEpoch("elbo_validation", mode)
    for epoch, value in enumerate([5.0, 9.0, 3.0, 4.0]):
        keeper.on_validation_end(trainer_at(epoch, elbo_validation=value), plan.at(epoch))
    keeper.on_train_end(trainer_at(), plan.at(99.0))
    assert keeper.epoch == best
    assert float(plan.module.weight) == best


def test_without_validation_the_last_epoch_stays() -> None:
    plan, keeper = Plan(), BestEpoch("elbo_validation")
    keeper.on_validation_end(trainer_at(reconstruction=1.0), plan.at(1.0))
    keeper.on_validation_end(trainer_at(elbo_validation=math.nan), plan.at(2.0))
    keeper.on_train_end(trainer_at(), plan.at(3.0))
    assert float(plan.module.weight) == 3.0


# ------------------------------------------------------------------ collapse


def watched(objective: Objective, later_scale: float = 0.5) -> list[str]:
    watch = CollapseWatch(objective)
    watch.on_train_epoch_end()
    objective.scale.fill_(later_scale)
    watch.on_train_epoch_end()
    return watch.findings()


def test_a_healthy_latent_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch = CollapseWatch(objective_of())
        watch.on_train_epoch_end()
        watch.on_train_end()
    assert watched(objective_of(), later_scale=0.01) == []


def test_a_latent_without_spread_is_named() -> None:
    (finding,) = watched(objective_of(spread=0.02))
    assert "latent has collapsed" in finding and "0.02 posterior standard deviations" in finding


def test_a_shrunken_scale_is_named_with_both_values() -> None:
    (finding,) = watched(objective_of(), later_scale=1e-4)
    assert "scale λ has collapsed from 0.5 to 0.0001" in finding


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        (Penalty(50.0, relative=False), "Use the relative distortion"),
        (Penalty(50.0), "Use a smaller weight"),
        (Constraint(0.2), "Use a looser target than 0.2"),
    ],
)
def test_the_remedy_fits_what_was_asked(asked: Distortion, remedy: str) -> None:
    findings = watched(objective_of(asked, spread=0.01), later_scale=1e-5)
    assert len(findings) == 2
    assert all(remedy in finding for finding in findings)


def test_the_warning_comes_at_the_end_of_training() -> None:
    watch = CollapseWatch(objective_of(spread=0.02))
    with pytest.warns(IsoviWarning, match="latent has collapsed"):
        watch.on_train_end()


def test_without_any_pair_there_is_nothing_to_find() -> None:
    fresh = CollapseWatch(Objective(Constraint(), 1))
    fresh.on_train_epoch_end()
    assert fresh.first_scale is None
    assert fresh.findings() == []


# ------------------------------------------------------------------ what was reached


def history_of(**columns: list[float]) -> dict[str, pd.DataFrame]:
    return {name: pd.DataFrame({name: values}) for name, values in columns.items()}


REACHED = history_of(
    elbo_train=[9.0, 8.0, 7.0],
    relative_distortion_train=[0.5, 0.26, 0.2],
    relative_distortion_validation=[0.6, 0.4, 0.5],
)


def kept_at(epoch: int) -> BestEpoch:
    best = BestEpoch("elbo_validation")
    best.on_validation_end(trainer_at(epoch, elbo_validation=1.0), Plan())
    return best


def test_the_metrics_are_those_of_the_epoch_that_is_kept() -> None:
    told = str(outcome([], Constraint(0.25), REACHED))
    assert told.startswith("Trained 3 epochs; the state of epoch 3 is kept.")
    assert "Relative distortion: 0.200 on training spots, 0.500 on validation spots." in told
    found = outcome([kept_at(1)], Constraint(0.25), REACHED)
    assert (found.kept_epoch, found.train_distortion, found.validation_distortion) == (2, 0.26, 0.4)
    assert "the state of epoch 2 is kept" in str(found)
    assert "0.260 on training spots, 0.400 on validation spots." in str(found)


def test_epochs_are_counted_within_the_training_that_is_recorded() -> None:
    found = outcome([kept_at(0)], Constraint(0.25), REACHED, trained=1)
    assert (found.n_epochs, found.kept_epoch) == (2, 1)
    assert (found.train_distortion, found.validation_distortion) == (0.26, 0.4)


def at_limit() -> DualAscent:
    return pressed(n_steps=100)[1]


def stalled(n_steps: int = 40) -> DualAscent:
    ascent = pressed(n_steps=n_steps)[1]
    at_validation(ascent, 0, 0.5)
    for _ in range(PATIENCE):
        at_validation(ascent, 1, 0.5)
    return ascent


@pytest.mark.parametrize(
    ("target", "ascent", "kept", "reason", "said"),
    [
        (0.2, at_limit(), 2, "met", "The constraint of 0.2 holds on training spots."),
        (0.2 / (1 + 0.9 * TOLERANCE), at_limit(), 2, "met", "holds"),
        (0.1, at_limit(), 2, "limit", f"at its limit of 200, first reached in epoch {WARM_UP_EPOCHS + 1}"),
        (0.1, stalled(), 2, "stalled", "frozen in epoch 2, because distortion of validation spots no longer"),
        (0.1, stalled(), 0, "epochs", "still rising in that epoch. Train for more epochs"),
        (0.1, stalled(100), 2, "limit", "at its limit of 200"),
        (0.2, at_limit(), 1, "selection", "it held in other epochs, but not in the kept one"),
        (
            0.1,
            pressed()[1],
            2,
            "epochs",
            "still rising in that epoch. Train for more epochs",
        ),
        (0.1, DualAscent(objective_of()), 2, "epochs", "the warm-up was not over. Train for more epochs"),
    ],
)
def test_the_verdict_names_the_true_reason(
    target: float, ascent: DualAscent, kept: int, reason: str, said: str
) -> None:
    found = outcome([ascent, kept_at(kept)], Constraint(target), REACHED)
    assert (found.reason, found.target) == (reason, target)
    assert said in str(found)
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)


def test_a_multiplier_that_was_frozen_is_reported_whatever_the_reason() -> None:
    found = outcome([stalled()], Constraint(0.25), REACHED)
    assert (found.reason, found.stalled_epoch, found.lowest_validation_distortion) == ("met", 2, 0.5)
    assert "From epoch 2 on the multiplier was frozen" in str(found) and "lowest 0.500" in str(found)


def test_without_a_constraint_there_is_no_verdict() -> None:
    ascent = DualAscent(objective_of(Penalty(1.0)))
    for asked, callbacks in ((Penalty(1.0), [ascent]), (None, [])):
        found = outcome(callbacks, asked, REACHED)
        assert found.reason is None and "constraint" not in str(found)
    plain = outcome([], None, history_of(elbo_train=[3.0]))
    assert str(plain) == "Trained 1 epochs; the state of epoch 1 is kept."
