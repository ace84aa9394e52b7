"""Pictures of Tissot ellipses: the drawn shapes are those that were measured."""

from __future__ import annotations

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from isovi.errors import InputError
from isovi.pl.tissot import _most, tissot, tissot_latents
from isovi.tl.tissot import tissot as find


def grid(side: int = 10, jitter: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(float(side)), np.arange(float(side)))
    return np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-jitter, jitter, (side**2, 2))


def turned(coordinates: np.ndarray, n_latent: int = 5, seed: int = 0) -> np.ndarray:
    """The coordinates, in a plane of a space of more dimensions."""
    matrix = np.random.default_rng(seed).normal(size=(n_latent, n_latent))
    return coordinates @ np.linalg.qr(matrix)[0][: coordinates.shape[1]]


@pytest.fixture
def adata() -> anndata.AnnData:
    positions = grid()
    slide = np.repeat(["b", "a"], 50)
    adata = anndata.AnnData(obs=pd.DataFrame({"slide": slide}, index=[f"spot{i}" for i in range(100)]))
    adata.obsm["spatial"] = 30 * positions
    adata.obsm["X_isovi"] = turned(positions * [2.0, 1.0])
    find(adata)
    return adata


def drawn(ax: Axes) -> EllipseCollection:
    (found,) = [part for part in ax.collections if isinstance(part, EllipseCollection)]
    return found


def shapes(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Half axes (n, 2) and directions (n, 2) of the longest ones, as drawn, in the units of the axes."""
    ax.figure.draw_without_rendering()
    collection = drawn(ax)
    to_data = ax.transData.get_affine().inverted().get_matrix()[:2, :2]
    to_display = collection.get_transform().get_matrix()[:2, :2]
    left, half_axes, _ = np.linalg.svd(to_data @ to_display @ collection.get_transforms()[:, :2, :2])
    return half_axes, left[:, :, 0]


def both(name: str, adata: anndata.AnnData, **keywords: object) -> object:
    """Call one of the plots with ordinary arguments."""
    if name == "tissot":
        return tissot(adata, **keywords)
    return tissot_latents({"a": adata.obsm["X_isovi"]}, adata.obsm["spatial"], **keywords)


@pytest.mark.parametrize("name", ["tissot", "tissot_latents"])
@pytest.mark.parametrize("basis", ["spatial", "latent"])
class TestEveryPicture:
    def test_returns_axes_and_writes_the_file(self, name, basis, adata, tmp_path):
        assert isinstance(both(name, adata, basis=basis, save=tmp_path / "a.png"), Axes)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        both(name, adata, basis=basis, save=str(tmp_path / "a.svg"))
        assert "<svg" in (tmp_path / "a.svg").read_text()

    def test_leaves_global_state_and_data_alone(self, name, basis, adata):
        parameters, figures, before = dict(mpl.rcParams), plt.get_fignums(), adata.copy()
        both(name, adata, basis=basis)
        assert dict(mpl.rcParams) == parameters
        assert plt.get_fignums() == figures
        pd.testing.assert_frame_equal(adata.obs, before.obs)
        for key in before.obsm:
            np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])
        assert set(adata.uns) == set(before.uns)

    def test_draws_on_the_axes_given(self, name, basis, adata):
        ax = Figure().subplots()
        assert both(name, adata, basis=basis, ax=ax) is ax
        assert ax.figure.axes == [ax]
        with pytest.raises(InputError, match="2 Axes were given"):
            both(name, adata, basis=basis, ax=Figure().subplots(1, 2))

    def test_stretch_is_drawn_in_its_direction_and_size(self, name, basis, adata):
        ax = both(name, adata, basis=basis)
        half_axes, direction = shapes(ax)
        np.testing.assert_allclose(half_axes[:, 0] / half_axes[:, 1], 2.0, rtol=1e-2)
        np.testing.assert_allclose(np.abs(direction[:, 0]), 1.0, rtol=1e-2)
        assert ax.yaxis_inverted()
        assert ax.get_aspect() == 1

    def test_few_ellipses_where_they_are_too_many(self, name, basis, adata):
        assert len(drawn(both(name, adata, basis=basis, max_ellipses=30)).get_offsets()) == 30
        assert len(drawn(both(name, adata, basis=basis)).get_offsets()) == 100

    def test_refuses_to_draw_none(self, name, basis, adata):
        with pytest.raises(InputError, match="max_ellipses=0"):
            both(name, adata, basis=basis, max_ellipses=0)


def test_refuses_another_basis():
    with pytest.raises(InputError, match="basis='umap'"):
        _most("umap", None)  # past the type checks of the test run


@pytest.mark.parametrize("basis", ["spatial", "latent"])
def test_isometry_has_equal_circles_with_room(basis):
    positions = grid(jitter=0.0) * 30
    ax = tissot_latents({"same": turned(positions)}, positions, basis=basis)
    sizes, _ = shapes(ax)
    np.testing.assert_allclose(sizes, sizes[0, 0], rtol=1e-6)
    assert 10 < sizes[0, 0] <= 15  # circles at a distance of 30 fill it, and do not overlap
    np.testing.assert_allclose(drawn(ax).get_facecolors(), drawn(ax).get_facecolors()[[0] * 100], atol=1e-6)
    assert ax.get_title() == "same\nmedian anisotropy 1.00"


def test_colours_follow_the_anisotropy_and_are_the_same_everywhere():
    positions = grid()
    axes = tissot_latents(
        {"round": positions, "long": positions * [1, 3], "far": positions * [1, 99]}, positions
    )
    colors = [drawn(ax).get_facecolors().mean(axis=0) for ax in axes]
    alone = drawn(tissot_latents({"long": positions * [1, 3]}, positions)).get_facecolors().mean(axis=0)
    np.testing.assert_allclose(colors[1], alone, atol=1e-6)
    reds = [color[0] for color in colors]
    assert reds == sorted(reds)
    assert [text.get_text() for text in axes[0].figure.axes[-1].get_yticklabels()] == [
        "1",
        "1.5",
        "2",
        "3",
        "4",
    ]


def test_latent_view_has_the_images_of_circles(adata):
    positions = grid()
    adata.obsm["X_isovi"] = np.column_stack(
        [np.sin(0.4 * positions), 0.3 * positions, np.cos(0.3 * positions)]
    )
    found = find(adata)
    half_axes, _ = shapes(tissot(adata, basis="latent"))
    centred = adata.obsm["X_isovi"] - adata.obsm["X_isovi"].mean(axis=0)
    expected = np.linalg.svd(np.linalg.svd(centred)[2][:2] @ found.jacobian, compute_uv=False)
    factor = half_axes / expected[np.argsort(-expected[:, 0], kind="stable")]  # drawn from large to small
    np.testing.assert_allclose(factor, factor[0, 0], rtol=1e-4)


def test_sections_are_panels_and_their_missing_spots_have_no_ellipse(adata):
    with pytest.warns(UserWarning, match="no ellipse"):
        find(adata, section_key="slide", cells=np.r_[0:48, 50, 51], key_added="part")
    axes = tissot(adata, "part")
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    assert len(drawn(axes[1]).get_offsets()) == 48
    assert not any(isinstance(part, EllipseCollection) for part in axes[0].collections)
    assert len(axes[0].collections[0].get_offsets()) == 50  # the spots are there, in grey


def test_other_columns_can_be_shown(adata):
    adata.obs["value"] = np.linspace(0, 1, 100)
    ax = tissot(adata, color="value")
    assert len(np.unique(drawn(ax).get_facecolors(), axis=0)) > 50
    assert ax.figure.axes[-1].get_ylabel() == "value"


@pytest.mark.parametrize("latent", [np.ones((100, 3)), grid()[:, :1] @ np.ones((1, 3)), grid()[:, :1]])
@pytest.mark.parametrize("basis", ["spatial", "latent"])
def test_degenerate_latents(latent, basis, tmp_path):
    ax = tissot_latents({"flat": latent}, grid(), basis=basis, save=tmp_path / "a.png")
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
    assert np.isfinite(shapes(ax)[0]).all()


def test_tissue_in_space_is_seen_from_above():
    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3)
    positions += rng.uniform(-0.1, 0.1, positions.shape)
    ax = tissot_latents({"a": positions * [1, 2, 9]}, positions, basis="spatial")
    half_axes, direction = shapes(ax)
    np.testing.assert_allclose(half_axes[:, 0] / half_axes[:, 1], 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.abs(direction[:, 1]), 1.0, rtol=1e-6)
    tissot_latents({"a": positions}, positions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"key": "no"}, '"no"'), ({"color": "no"}, '"no"'), ({"color": "slide"}, '"slide"')],
)
def test_refuses_what_is_not_there(adata, arguments, message):
    with pytest.raises(InputError, match=message):
        tissot(adata, **arguments)


@pytest.mark.parametrize("latents", [{}, {"a": np.zeros((3, 2))}, {"a": np.zeros(100)}])
def test_refuses_other_latents(latents):
    with pytest.raises(InputError):
        tissot_latents(latents, grid())
