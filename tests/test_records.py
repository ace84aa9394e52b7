from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isovi import (
    AllPairs,
    Constraint,
    Delaunay,
    Gaussian,
    InputError,
    Neighbors,
    Obsp,
    Penalty,
    Radius,
    SameDomain,
)
from isovi._records import as_data, from_data
from isovi.graph import KIND_CLASSES
from isovi.run import Settings

numbers = st.floats(0.01, 100)
kinds = st.one_of(
    st.just(AllPairs()),
    st.builds(Neighbors, st.integers(1, 50)),
    st.builds(Radius, numbers),
    st.just(Delaunay()),
    st.builds(Gaussian, numbers),
    st.builds(SameDomain, st.text(min_size=1)),
    st.builds(Obsp, st.text(min_size=1)),
)
unions = st.recursive(kinds, lambda inner: st.builds(lambda a, b: a | b, inner, inner), max_leaves=5)
options = {
    "distance": st.sampled_from(["mean", "sample", "wasserstein"]),
    "scale": st.sampled_from(["profiled", "learned"]),
    "per_section": st.booleans(),
}
distortions = st.one_of(
    st.builds(Constraint, st.floats(0.01, 0.99), **options),
    st.builds(Penalty, numbers, st.booleans(), st.sampled_from(["mean", "paper"]), **options),
    st.none(),
)


@given(distortion=distortions, pairs=unions, holdout=st.one_of(st.floats(0, 0.9), st.just("section:a.b:c")))
def test_settings_survive_json_whole(distortion: Any, pairs: Any, holdout: float | str) -> None:
    """Bug 6: distance, scale and per_section were lost in the text "constraint 0.2"."""
    settings = Settings(distortion=distortion, pairs=pairs, holdout=holdout, section_key="slide")
    assert Settings.from_data(json.loads(json.dumps(settings.as_data()))) == settings


def test_paths_and_mappings_become_plain() -> None:
    assert as_data({"a": Path("b"), 1: (True, None)}) == {"a": "b", "1": [True, None]}
    with pytest.raises(TypeError, match="object has no plain form"):
        as_data(object())


@pytest.mark.parametrize("data", [{"kind": "Everything"}, {"kind": "Neighbors", "k": 6, "weight": 2}])
def test_other_kinds_and_fields_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"The kinds are AllPairs.* version of isoVI that wrote"):
        from_data(data, KIND_CLASSES)


def test_settings_that_differ_from_the_defaults_are_known() -> None:
    assert Settings().changed() == {}
    assert Settings(seed=3, pairs=Neighbors(6)).changed() == {"seed": 3, "pairs": Neighbors(6)}
    assert Settings(distortion=Constraint(0.2, distance="wasserstein")).target == 0.2
    assert Settings(distortion=Penalty(1.0)).target is None
