"""Curves of profiles and certificates."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from matplotlib.figure import Figure

from isovi import pl, tl
from isovi.errors import InputError


@pytest.fixture
def adata() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 20, (400, 2))
    return anndata.AnnData(obsm={"spatial": places, "X_isovi": places + rng.normal(size=places.shape)})


def curves(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_profiles_are_drawn_by_name_and_the_first_by_range(adata, tmp_path) -> None:
    some, rest = (tl.distortion_profile(adata, cells=half) for half in np.arange(400).reshape(2, 200))
    left, right = pl.distortion_profile({"held out": some, "training": rest}, save=tmp_path / "p.png")
    drawn = curves(left)
    assert list(drawn) == ["held out", "training"]
    at = drawn["held out"][:, 0] == 0.1
    assert drawn["held out"][at, 1] == pytest.approx(some.for_epsilon(0.1).L)
    assert [name.split()[0] for name in curves(right)] == ["short", "middle", "long"]
    assert (tmp_path / "p.png").stat().st_size > 5_000


def test_what_was_stored_is_drawn_too(adata) -> None:
    profile = tl.distortion_profile(adata)
    left, right = pl.distortion_profile(adata)
    (line,) = left.get_lines()
    assert line.get_ydata() == pytest.approx([point.L for point in profile.curve()])
    assert len(right.get_lines()) == 3
    with pytest.raises(InputError, match='uns has no key "other"'):
        pl.distortion_profile(adata, "other")


def test_on_one_given_axes_there_is_one_panel(adata) -> None:
    ax = Figure().add_subplot()
    assert pl.distortion_profile(tl.distortion_profile(adata), ax=ax, colors=["red"]) is ax
    assert ax.get_lines()[0].get_color() == "red"


def test_a_certificate_is_drawn_above_what_was_measured(adata, tmp_path) -> None:
    found = tl.certificate(adata, cells=np.arange(400))
    ax = pl.certificate({"run": found}, save=tmp_path / "c.png")
    drawn = curves(ax)
    measured, certified, point = drawn.values()
    assert point == pytest.approx(np.array([[0.1, found.point.L]]))
    shift = certified[0, 0] - measured[0, 0]
    assert shift == pytest.approx(2 * found.eta)
    assert (tmp_path / "c.png").is_file()
    assert len(pl.certificate(tl.certificate(adata, cells=np.arange(400), epsilon=None)).get_lines()) == 2
