from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from isovi import Constraint, InputError, Penalty
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.sampler import PatchBatchSampler
from isovi.geometry.distortion import LATENT_POINTS, LatentDistance, profile_scale
from isovi.geometry.pairs import PairSet
from isovi.graph import AllPairs, Neighbors
from isovi.model.objective import (
    ASCENT_RATE,
    LIMIT_SHARE,
    MOMENTUM,
    SCALE_LEARNING_RATE,
    START_SHARE,
    Distortion,
    DistortionTerm,
    Objective,
)
from isovi.spots import Spots

DISTANCES = ["mean", "sample", "wasserstein"]
ASKED = {
    "relative": Penalty(3.0),
    "raw": Penalty(3.0, relative=False),
    "paper": Penalty(3.0, relative=False, normalization="paper"),
    "constraint": Constraint(0.3),
}
N_CELLS = 9


def minibatch(n: int = N_CELLS, n_sections: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of the objective in double precision, with a latent that knows something of the tissue."""
    rng = np.random.default_rng(seed)
    coordinates = rng.normal(0, 3, (n, 2))
    loc = coordinates @ rng.normal(size=(2, 3)) + rng.normal(size=(n, 3))
    arrays = {
        "loc": loc,
        "sd": rng.uniform(0.2, 1, (n, 3)),
        "sample": loc + 0.5 * rng.normal(size=(n, 3)),
        "coordinates": coordinates,
        "section": np.arange(n) % n_sections,
        "cells": rng.permutation(50)[:n],
    }
    return {key: torch.as_tensor(value) for key, value in arrays.items()}


def objective_of(asked: Distortion, n_sections: int = 1, *, training: bool = True) -> Objective:
    objective = Objective(asked, n_sections).double().train(training)
    if isinstance(asked, Constraint):
        objective.log_multiplier.fill_(math.log(3.0))
    return objective


def measured(objective: Objective, batch: dict[str, torch.Tensor]) -> DistortionTerm:
    term = objective(**batch)
    assert bool(term.known)
    return term


def require_nothing(term: DistortionTerm) -> None:
    """It counts for nothing, neither in the loss nor in a gradient."""
    assert not term.known
    assert float(term.loss) == float(term.relative) == 0


def latent_distance(batch: dict[str, torch.Tensor], distance: str) -> np.ndarray:
    parts = {"mean": ["loc"], "sample": ["sample"], "wasserstein": ["loc", "sd"]}[distance]
    return np.sqrt(sum(cdist(batch[part], batch[part]) ** 2 for part in parts))


# ------------------------------------------------------------------ values by hand


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ASKED)
def test_the_term_is_the_formula(name: str, distance: str) -> None:
    """Over all ordered pairs: weight Σ|d_Z - λ d_S| over Σ λ d_S, over the number of pairs, or over N²."""
    batch = minibatch()
    term = measured(objective_of(replace(ASKED[name], distance=distance)), batch)
    latent, tissue = latent_distance(batch, distance), cdist(*[batch["coordinates"]] * 2)
    scale = float(term.scale)
    off = np.abs(latent - scale * tissue).sum()
    relative = off / (scale * tissue).sum()
    per = {"raw": off / (N_CELLS * (N_CELLS - 1)), "paper": off / N_CELLS**2}.get(name, relative)
    assert float(term.loss) == pytest.approx(3 * per, rel=1e-6)
    assert float(term.relative) == pytest.approx(relative, rel=1e-6)


@pytest.mark.parametrize("name", ASKED)
def test_the_scale_is_the_minimiser_of_what_is_asked(name: str) -> None:
    batch = minibatch()
    upper = np.triu_indices(N_CELLS, 1)
    pairs = [
        torch.as_tensor(d[upper])
        for d in (latent_distance(batch, "mean"), cdist(*[batch["coordinates"]] * 2))
    ]
    expected = profile_scale(*pairs, torch.ones_like(pairs[0]), relative=name in ("relative", "constraint"))
    assert float(measured(objective_of(ASKED[name]), batch).scale) == pytest.approx(float(expected), rel=1e-6)


def test_pairs_count_by_their_weight() -> None:
    batch = minibatch()
    tissue = Spots(np.random.default_rng(1).normal(size=(50, 2)))
    objective = objective_of(ASKED["relative"])
    objective.weights = Neighbors(12).fit(tissue)
    term = measured(objective, batch)
    cells = batch["cells"].numpy()
    weight = objective.weights.matrix.toarray()[np.ix_(cells, cells)]
    assert 0 < weight.sum() < N_CELLS * (N_CELLS - 1)
    expected = float(term.scale) * cdist(*[batch["coordinates"]] * 2)
    off = np.abs(latent_distance(batch, "mean") - expected)
    assert float(term.relative) == pytest.approx((weight * off).sum() / (weight * expected).sum(), rel=1e-6)


def test_without_a_multiplier_distortion_is_measured_but_not_pressed() -> None:
    for asked in (Penalty(0.0), Constraint(0.3)):
        term = measured(
            Objective(asked, 1),
            {k: v.float() if v.is_floating_point() else v for k, v in minibatch().items()},
        )
        assert float(term.loss) == 0
        assert float(term.relative) > 0


def test_a_latent_distance_is_one_entry_of_one_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_args(LatentDistance) == tuple(LATENT_POINTS)
    monkeypatch.setitem(LATENT_POINTS, "first axis", lambda q: q.loc[:, :1])
    asked, batch = Penalty(1.0), minibatch()
    object.__setattr__(asked, "distance", "first axis")  # past the type checks of the test run
    asked.__post_init__()
    term = measured(objective_of(asked), batch)
    batch["loc"] = batch["loc"] * torch.tensor([1.0, 0.0, 0.0])
    expected = measured(objective_of(Penalty(1.0)), batch)
    assert float(term.relative) == pytest.approx(float(expected.relative), rel=1e-6)


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ASKED)
def test_gradients_agree_with_finite_differences(name: str, distance: str) -> None:
    """In the latents, and in a learned λ."""
    asked = replace(ASKED[name], distance=distance, scale="learned")
    objective, batch = objective_of(asked, training=False), minibatch()
    parts = {"mean": ["loc"], "sample": ["sample"], "wasserstein": ["loc", "sd"]}[distance]

    def loss(scale: torch.Tensor, *latents: torch.Tensor) -> torch.Tensor:
        arguments = {**batch, **dict(zip(parts, latents, strict=True))}
        (term,) = [
            torch.func.functional_call(objective, {"scale_parameter": scale}, kwargs=arguments, args=())
        ]
        return term.loss

    inputs = [torch.tensor([0.05], dtype=torch.float64), *(batch[part] for part in parts)]
    assert torch.autograd.gradcheck(loss, [part.clone().requires_grad_() for part in inputs])


@pytest.mark.parametrize("name", ASKED)
def test_a_profiled_scale_is_a_constant_to_the_gradient(name: str) -> None:
    gradients = []
    profiled = objective_of(ASKED[name])
    learned = objective_of(replace(ASKED[name], scale="learned"), training=False)
    for objective in (profiled, learned):
        batch = minibatch()
        batch["loc"].requires_grad_()
        measured(objective, batch).loss.backward()
        gradients.append(batch["loc"].grad)
        learned.scale_parameter.data = profiled.scale.log() / SCALE_LEARNING_RATE
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


def test_gradients_are_finite_where_latents_coincide() -> None:
    batch = minibatch()
    batch["loc"][:4] = 0.0
    batch["loc"].requires_grad_()
    measured(objective_of(ASKED["relative"]), batch).loss.backward()
    assert torch.isfinite(batch["loc"].grad).all()


# ------------------------------------------------------------------ λ


@pytest.mark.parametrize("name", ["relative", "raw", "constraint"])
def test_a_learned_scale_is_positive_and_converges_to_the_profiled(name: str) -> None:
    batch = minibatch(40)
    expected = float(measured(objective_of(ASKED[name]), batch).scale)
    objective = objective_of(replace(ASKED[name], scale="learned"))
    measured(objective, batch)
    objective.scale_parameter.data += 0.2  # e² times too large
    optimiser = torch.optim.Adam(objective.parameters(), lr=5e-3)
    for _ in range(300):
        optimiser.zero_grad()
        term = measured(objective, batch)
        term.loss.backward()
        optimiser.step()
        assert float(term.scale) > 0
    assert float(term.scale) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["profiled", "learned"])
def test_a_learned_or_profiled_scale_starts_at_the_minimiser(kind: str) -> None:
    batch = minibatch()
    objective = objective_of(replace(ASKED["relative"], scale=kind))
    assert float(measured(objective, batch).scale) == pytest.approx(float(objective.scale), rel=1e-6)
    assert float(objective.scale) == pytest.approx(
        float(measured(objective_of(ASKED["relative"]), batch).scale)
    )


def similar(factors: tuple[float, ...], n: int = 12) -> dict[str, torch.Tensor]:
    """A latent that is each section's tissue times its factor."""
    batch = minibatch(n, len(factors))
    flat = torch.as_tensor(factors)[batch["section"]][:, None] * batch["coordinates"]
    batch["loc"] = torch.nn.functional.pad(flat, (0, 1))
    return batch


@pytest.mark.parametrize("kind", ["profiled", "learned"])
def test_each_section_gets_its_own_scale_when_asked(kind: str) -> None:
    batch = similar((0.5, 2.0, 8.0))
    objective = objective_of(Penalty(1.0, per_section=True, scale=kind), 3)
    assert float(measured(objective, batch).relative) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(objective.scale, torch.tensor([0.5, 2.0, 8.0]).double())
    shared = objective_of(Penalty(1.0, scale=kind), 3)
    assert float(measured(shared, batch).relative) > 0.3
    assert shared.scale.shape == (1,)


@pytest.mark.parametrize("kind", ["profiled", "learned"])
def test_a_section_starts_at_its_minimiser_whenever_it_comes_first(kind: str) -> None:
    batch = similar((0.5, 2.0))
    objective = objective_of(Penalty(1.0, per_section=True, scale=kind), 2)
    for section, known in ((0, [0.5, math.nan]), (1, [0.5, 2.0])):
        of = batch["section"] == section
        part = {key: value[of] for key, value in batch.items()}
        assert float(measured(objective, part).relative) == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(objective.scale, torch.tensor(known).double(), equal_nan=True)


@pytest.mark.parametrize("kind", ["profiled", "learned"])
@pytest.mark.parametrize("n_sections", [1, 2])
def test_sections_unseen_in_training_are_measured_by_their_own_scale(kind: str, n_sections: int) -> None:
    objective = objective_of(Penalty(1.0, per_section=True, scale=kind), n_sections)
    measured(objective, similar((0.5, 2.0)[:n_sections]))
    before = objective.scale.clone()
    batch = similar((0.5, 2.0, 8.0))
    assert float(measured(objective.eval(), batch).relative) == pytest.approx(0, abs=1e-6)
    assert torch.equal(objective.scale, before)


def test_the_profiled_scale_is_averaged_over_minibatches() -> None:
    objective = objective_of(Penalty(1.0))
    for factor in (1.0, 3.0):
        measured(objective, similar((factor,)))
    assert float(objective.scale) == pytest.approx(1 + MOMENTUM * 2)


def test_fitting_the_scale_leaves_sections_without_pairs_alone() -> None:
    objective = objective_of(Penalty(1.0, per_section=True), 3)
    objective.scale.copy_(torch.tensor([1.0, 1.0, 1.0]))
    ends, length = torch.tensor([0, 1, 2]), torch.ones(3).double()
    pairs = PairSet(ends, ends + 1, length, torch.tensor([1.0, 1.0, 0.0]).double())
    objective.fit_scale(5 * length, pairs, torch.tensor([0, 0, 1]))
    assert objective.scale.tolist() == [5, 1, 1]
    objective.fit_scale(0 * length, pairs, torch.tensor([0, 0, 1]))
    assert objective.scale.tolist() == [5, 1, 1], "a latent at one point has no scale"


# ------------------------------------------------------------------ what forms no pairs


@pytest.mark.parametrize("name", ASKED)
def test_cells_without_coordinates_contribute_nothing(name: str) -> None:
    batch = minibatch()
    batch["coordinates"][[1, 4, 8]] = math.nan
    batch["coordinates"][4, 0] = 1.0  # one axis alone is no position
    batch["loc"].requires_grad_()
    measured(objective_of(ASKED[name]), batch).loss.backward()
    gradient = batch["loc"].grad
    assert not gradient[[1, 4, 8]].any()
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    rest = [0, 2, 3, 5, 6, 7]
    part = {key: value[rest].detach() for key, value in batch.items()}
    alone, among = (measured(objective_of(ASKED[name]), b) for b in (part, batch))
    assert float(alone.relative) == pytest.approx(float(among.relative))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: {k: v[:1] for k, v in batch.items()},
        lambda batch: {k: v[:0] for k, v in batch.items()},
        lambda batch: {**batch, "section": torch.arange(N_CELLS)},
        lambda batch: {**batch, "coordinates": batch["coordinates"] * math.nan},
        lambda batch: {**batch, "coordinates": batch["coordinates"] * 0},
    ],
    ids=["one cell", "no cells", "one cell a section", "no coordinates", "one place"],
)
def test_without_pairs_there_is_no_term_and_the_state_stays(spoil: Any) -> None:
    objective = objective_of(ASKED["constraint"], N_CELLS)
    batch = minibatch()
    loc = batch["loc"].requires_grad_()
    term = objective(**spoil(batch))
    require_nothing(term)
    (gradient,) = torch.autograd.grad(term.loss, loc, allow_unused=True, materialize_grads=True)
    assert not gradient.any()
    assert objective.running.isnan().all() and objective.scale.isnan().all()


def test_without_pairs_of_weight_there_is_no_term() -> None:
    objective = objective_of(ASKED["constraint"])
    tissue = Spots(np.full((50, 2), np.nan))
    objective.weights = Neighbors(3).fit(tissue)
    require_nothing(objective(**minibatch()))


def test_a_latent_at_one_point_leaves_no_trace() -> None:
    """Before any scale is known there is nothing to compare with, and no gradient that could be followed."""
    batch = minibatch()
    batch["loc"] = torch.zeros_like(batch["loc"])
    objective = objective_of(ASKED["constraint"])
    batch["loc"].requires_grad_()
    term = objective(**batch)
    require_nothing(term)
    assert not torch.autograd.grad(term.loss, batch["loc"])[0].any()
    assert objective.scale.isnan().all()


def test_evaluation_leaves_the_state_alone() -> None:
    objective = objective_of(ASKED["constraint"])
    measured(objective, minibatch())
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    objective.eval()
    measured(objective, minibatch(seed=5))
    for key, value in objective.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)


def test_running_averages_follow_training() -> None:
    objective = objective_of(ASKED["constraint"])
    found = [float(measured(objective, minibatch(seed=seed)).relative) for seed in (0, 1)]
    assert objective.running_distortion == pytest.approx(found[0] + MOMENTUM * (found[1] - found[0]))
    batches = [minibatch(seed=seed) for seed in (0, 1)]
    spreads = [float((b["loc"].var(0).mean() / b["sd"].square().mean()).sqrt()) for b in batches]
    assert objective.running_spread == pytest.approx(spreads[0] + MOMENTUM * (spreads[1] - spreads[0]))


# ------------------------------------------------------------------ patches


def test_the_papers_loss_on_patches_is_unbiased() -> None:
    """Mean over the minibatches of many epochs = α / N² Σ G |d_Z - λ d_S| over the split (ordered pairs)."""
    n, rng = 90, np.random.default_rng(0)
    coordinates = rng.uniform(0, 9, (n, 2))
    tissue = Spots(coordinates, rng.integers(0, 2, n))
    cells, latent = rng.permutation(n)[:70], coordinates @ rng.normal(size=(2, 3)) + rng.normal(size=(n, 3))
    objective = objective_of(
        Penalty(3.0, relative=False, normalization="paper", scale="learned"), training=False
    )
    objective.weights, objective.inclusion = (AllPairs() | Neighbors(3)).fit(tissue), InclusionProbability(n)
    sampler = PatchBatchSampler(
        coordinates[cells],
        tissue.section[cells],
        cells,
        batch_size=16,
        inclusion=objective.inclusion,
        rng=rng,
    )
    batch = minibatch(n)
    batch |= {"loc": torch.as_tensor(latent), "coordinates": torch.as_tensor(coordinates)}
    batch |= {"section": torch.as_tensor(tissue.section), "cells": torch.arange(n)}
    epochs = []
    for _ in range(200):
        parts = [{k: v[cells[where]] for k, v in batch.items()} for where in sampler]
        epochs.append(np.mean([float(measured(objective, part).loss) for part in parts]))
    same = tissue.section[cells][:, None] == tissue.section[cells]
    off = np.abs(cdist(latent[cells], latent[cells]) - cdist(coordinates[cells], coordinates[cells]))
    expected = 3 * (same * off).sum() / 70**2
    error = np.std(epochs, ddof=1) / np.sqrt(len(epochs))
    assert error < 0.02 * expected
    assert abs(np.mean(epochs) - expected) < 4 * error


# ------------------------------------------------------------------ dual ascent


def ascending(distortion: float, balance: float = 40.0, target: float = 0.25) -> Objective:
    objective = Objective(Constraint(target), 1)
    objective.running.copy_(torch.tensor([distortion, balance, 1.0]))
    return objective


def test_the_multiplier_starts_at_a_share_of_the_balance() -> None:
    objective = ascending(0.25)
    assert float(objective.multiplier) == 0
    objective.ascend()
    assert float(objective.multiplier) == pytest.approx(START_SHARE * 40)


def test_nothing_starts_before_the_balance_is_known() -> None:
    objective = ascending(0.5, balance=math.nan)
    objective.ascend()
    assert float(objective.multiplier) == 0 and not objective.at_limit


def test_the_multiplier_grows_while_violated_and_falls_when_satisfied() -> None:
    objective = ascending(0.5)
    objective.ascend()
    first = float(objective.log_multiplier)
    objective.ascend()
    assert float(objective.log_multiplier) == pytest.approx(first + ASCENT_RATE, abs=1e-6)
    objective.running[0] = 0.125
    objective.ascend()
    assert float(objective.log_multiplier) == pytest.approx(first + ASCENT_RATE / 2, abs=1e-6)


def test_the_multiplier_never_exceeds_its_share_of_the_balance() -> None:
    objective = ascending(5.0)
    for _ in range(50):
        objective.ascend()
    assert float(objective.multiplier) == pytest.approx(LIMIT_SHARE * 40) and objective.at_limit


def weigh(objective: Objective, loss: torch.Tensor, term: DistortionTerm, loc: torch.Tensor) -> None:
    """As a training step does it; half of the loss, as where gradients of two minibatches are added up."""
    objective.weigh(loss, term, loc)
    if loc.requires_grad:
        ((loss + objective.multiplier * term.relative) / 2).backward(retain_graph=True)


@pytest.mark.parametrize("constant", [0.0, -900.0])
def test_the_balance_is_where_both_losses_pull_alike_whatever_constant_a_likelihood_has(
    constant: float,
) -> None:
    """A Gaussian density may exceed one, so that its loss passes zero: no scale of a multiplier."""
    objective, batch = Objective(Constraint(0.25), 1).double(), minibatch()
    loc = batch["loc"].requires_grad_()
    term = measured(objective, batch)
    loss = 7 * loc.square().sum() + constant
    weigh(objective, loss, term, loc)
    (pull,) = torch.autograd.grad(term.relative, loc, retain_graph=True)
    assert objective.balance == pytest.approx(float(14 * loc.detach().norm() / pull.norm()))
    weigh(objective, 2 * loss, term, loc)
    assert objective.balance == pytest.approx((1 + MOMENTUM) * float(14 * loc.detach().norm() / pull.norm()))
    objective.ascend()
    before = objective.balance
    weigh(objective, 2 * loss, term, loc)
    assert objective.balance == before, "once the constraint acts, the balance is settled"


def test_a_loss_that_does_not_pull_has_no_balance() -> None:
    objective, batch = Objective(Constraint(0.25), 1).double(), minibatch()
    loc = batch["loc"].requires_grad_()
    term = measured(objective, batch)
    weigh(objective, torch.ones(1, requires_grad=True).sum(), term, loc)
    assert math.isnan(objective.balance)
    weigh(objective, torch.ones(1).sum(), term, loc.detach())  # a frozen encoder
    assert math.isnan(objective.balance)
    objective.weigh(torch.ones(1).sum(), term, loc)  # a loss of constants
    term.relative.backward()
    assert math.isnan(objective.balance)


def test_the_multiplier_respects_its_limit() -> None:
    objective = ascending(5.0)
    objective.log_limit.fill_(math.log(2.0))
    for _ in range(50):
        objective.ascend()
    assert float(objective.multiplier) == pytest.approx(2.0)


def test_nothing_ascends_before_a_minibatch_or_for_a_penalty() -> None:
    fresh = Objective(Constraint(), 1)
    fresh.ascend()
    assert float(fresh.multiplier) == 0
    penalty = Objective(Penalty(4.0), 1)
    penalty.running.copy_(torch.tensor([9.0, 200.0, 1.0]))
    penalty.ascend()
    assert float(penalty.multiplier) == pytest.approx(4.0)


def test_the_state_travels_with_the_module() -> None:
    objective = objective_of(Constraint(per_section=True, scale="learned"), 2)
    measured(objective, minibatch(n_sections=2))
    objective.ascend()
    copy = objective_of(Constraint(per_section=True, scale="learned"), 2)
    copy.load_state_dict(objective.state_dict())
    assert torch.equal(copy.scale, objective.scale)
    assert copy.running_distortion == objective.running_distortion
    assert float(copy.multiplier) == float(objective.multiplier)


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: Penalty(-1.0), r"Penalty\(weight=-1.0\)"),
        (lambda: Penalty(math.nan), r"Penalty\(weight=nan\)"),
        (lambda: Penalty(math.inf), r"Penalty\(weight=inf\)"),
        (lambda: Constraint(0.0), r"Constraint\(target=0.0\)"),
        (lambda: Constraint(1.0), r"Constraint\(target=1.0\)"),
        (lambda: Constraint(math.nan), r"Constraint\(target=nan\)"),
    ],
)
def test_values_out_of_range_are_refused_with_the_value(make: Any, received: str) -> None:
    with pytest.raises(InputError, match=received):
        make()


@pytest.mark.parametrize(
    ("asked", "name", "choices"),
    [
        (Constraint(), "distance", "'mean', 'sample', 'wasserstein'"),
        (Penalty(1.0), "scale", "'profiled', 'learned'"),
        (Penalty(1.0), "normalization", "'mean', 'paper'"),
    ],
)
def test_words_that_are_no_choice_are_refused_with_the_choices(
    asked: Distortion, name: str, choices: str
) -> None:
    object.__setattr__(asked, name, "other")  # past the type checks of the test run
    with pytest.raises(InputError, match=f"{name}='other' was given. {name} is one of {choices}."):
        asked.__post_init__()


def test_what_is_asked_reads_well_and_does_not_change() -> None:
    asked = Constraint(0.3)
    assert (asked.distance, asked.scale, asked.per_section) == ("mean", "profiled", False)
    assert str(asked) == "constraint 0.3"
    assert (str(Penalty(2.5)), str(Penalty(0.0))) == ("penalty 2.5", "none")
    with pytest.raises(AttributeError):
        asked.target = 0.5
