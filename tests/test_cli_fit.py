from __future__ import annotations

import pytest

from isovi import Constraint, InputError, Penalty
from isovi.cli.fit import distortion_of


def test_one_option_states_the_distortion() -> None:
    assert distortion_of(None, None, False, 3) == Constraint()
    assert distortion_of(0.3, None, False, 0) == Constraint(0.3, n_place=0)
    assert distortion_of(None, 2.0, False, 4) == Penalty(2.0, n_place=4)
    assert distortion_of(None, None, True, 3) == Penalty(0.0)
    assert distortion_of(None, 0.0, False, 3) == Penalty(0.0)


@pytest.mark.parametrize("given", [(0.3, 1.0, False), (0.3, None, True), (None, 0.0, True), (0.3, 1.0, True)])
def test_the_options_exclude_each_other(given: tuple[float | None, float | None, bool]) -> None:
    with pytest.raises(InputError, match="exclude each other"):
        distortion_of(*given, 3)
