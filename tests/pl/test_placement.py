from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isovi import pl
from isovi.errors import InputError

REFERENCE = np.random.default_rng(0).uniform(0, 10, (50, 2))
PLACED, TRUTH = REFERENCE[:20] + 0.5, REFERENCE[:20]


def test_lines_lead_to_the_truth_and_regions_are_discs(tmp_path: Path) -> None:
    flagged = np.arange(20) < 3
    radius = np.full(20, 1.5)
    radius[5] = np.inf
    axes = pl.placement(
        PLACED, REFERENCE, truth=TRUTH, radius=radius, flagged=flagged, save=tmp_path / "placed.png"
    )
    assert (tmp_path / "placed.png").stat().st_size > 0
    points = [len(drawn.get_offsets()) for drawn in axes.collections]
    assert points == [50, 16, 1, 17, 3]  # reference, discs, no offsets of lines, placed, flagged
    segments = axes.collections[2].get_segments()
    np.testing.assert_allclose([line[1] for line in segments], TRUTH)
    assert "region of its position" in [text.get_text() for text in axes.get_legend().get_texts()]
    discs = PLACED[3:][radius[3:] < np.inf]
    assert axes.get_xlim()[0] <= discs[:, 0].min() - 1.5 and axes.get_xlim()[1] >= discs[:, 0].max() + 1.5
    assert axes.get_ylim()[1] <= discs[:, 1].min() - 1.5 and axes.get_ylim()[0] >= discs[:, 1].max() + 1.5


def test_positions_alone_will_do() -> None:
    assert len(pl.placement(PLACED, REFERENCE).collections) == 3


def test_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="different lengths"):
        pl.placement(PLACED, REFERENCE, radius=np.ones(3))
