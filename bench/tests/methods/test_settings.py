from __future__ import annotations

from typing import Any

import pytest

from isovi import AllPairs, Constraint, InputError, Neighbors, Penalty
from isovi_bench.methods.settings import distortion_of, pairs_of


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, Constraint()),
        ({"n_latent": 5}, Constraint()),
        ({"target": 0.3, "scale": "learned"}, Constraint(0.3, scale="learned")),
        ({"penalty": 0.5}, Penalty(0.5, n_place=0)),
        ({"penalty": 0.5, "n_place": 2}, Penalty(0.5, n_place=2)),
        (
            {"penalty": 2, "relative": False, "normalization": "paper", "distance": "sample"},
            Penalty(2.0, relative=False, normalization="paper", distance="sample", n_place=0),
        ),
    ],
)
def test_settings_say_what_is_asked_of_distances(settings: dict[str, Any], asked: Any) -> None:
    assert distortion_of(settings) == asked


def test_a_method_may_have_a_default_of_its_own() -> None:
    assert distortion_of({"scale": "learned"}, default=Penalty(5.0)) == Penalty(5.0, scale="learned")
    assert distortion_of({"target": 0.3}, default=Penalty(5.0)) == Constraint(0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.2, "penalty": 1.0}, "target, penalty were given together.*either target or penalty"),
        ({"relative": False}, "relative were given together"),
        ({"target": 0.2, "normalization": "paper"}, "target, normalization were given together"),
        ({"target": 2.0}, "between 0 and 1"),
        ({"penalty": -1.0}, "zero or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distortion_of(settings)


def test_pairs_are_written_as_on_the_command_line() -> None:
    assert pairs_of({}) == AllPairs()
    assert pairs_of({"pairs": "all+knn:6"}) == AllPairs() | Neighbors(6)
    with pytest.raises(InputError, match="The kinds are"):
        pairs_of({"pairs": "some"})
