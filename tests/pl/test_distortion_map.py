"""The map of distortion in tissue."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from isovi import pl, tl
from isovi.errors import InputError
from isovi.pl._palette import MISSING


@pytest.fixture
def adata() -> anndata.AnnData:
    x, y = np.meshgrid(np.arange(8.0), np.arange(6.0))
    places = np.column_stack([x.ravel(), y.ravel()])
    latent = places.copy()
    latent[0] = [-90.0, 0.0]
    found = anndata.AnnData(obsm={"spatial": places, "X_isovi": latent})
    found.obs["slide"] = np.repeat(["b", "a"], 24)
    return found


def test_two_panels_for_each_section(adata, tmp_path) -> None:
    tl.distortion_map(adata)
    axes = pl.distortion_map(adata, section_key="slide", save=tmp_path / "m.png")
    titles = [ax.get_title() for ax in axes]
    assert titles == ["a · relative distortion", "a · stretch", "b · relative distortion", "b · stretch"]
    assert (tmp_path / "m.png").is_file()


def test_the_torn_spot_is_the_reddest_and_missing_ones_are_grey(adata) -> None:
    tl.distortion_map(adata, cells=np.arange(40))
    _, stretch = pl.distortion_map(adata, ax=list(Figure().subplots(1, 2)))
    colors = stretch.collections[0].get_facecolors()
    redness = colors[:40, 0] - colors[:40, 2]
    assert redness.argmax() == 0
    assert colors[40:] == pytest.approx(np.tile(to_rgba(MISSING), (8, 1)))


def test_the_map_must_have_been_made(adata) -> None:
    with pytest.raises(InputError, match=r"isovi\.tl\.distortion_map\(adata\) first"):
        pl.distortion_map(adata)
