"""The picture of the tissue under its spots, in the right place and at the right scale; formats of print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from matplotlib.image import imread

from isovi import pl, tl
from isovi.data.readers.source import INPUT_KEY
from isovi.errors import InputError
from isovi.pl import _image, _spots

SCALE = 0.1  # pixels of the small image per full-resolution pixel


@pytest.fixture
def slide() -> AnnData:
    """A Visium-like slide, 300 pixels between spots: red in the left half of the image, blue in the right."""
    x, y = np.meshgrid(np.arange(8), np.arange(6))
    adata = AnnData(obs={"domain": np.where(x.ravel() < 4, "left", "right").astype(str)})
    adata.obs["domain"] = adata.obs["domain"].astype("category")
    adata.obsm["spatial"] = 300.0 * np.column_stack([x.ravel(), y.ravel()]) + 600
    adata.obsm["X_isovi"] = adata.obsm["spatial"] / 300
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    middle = round((600 + 3.5 * 300) * SCALE)
    pixels[:, :middle, 0], pixels[:, middle:, 2] = 255, 255
    factors = {
        "tissue_hires_scalef": SCALE,
        "tissue_lowres_scalef": SCALE / 4,
        "spot_diameter_fullres": 165.0,
    }
    images = {"hires": pixels, "lowres": pixels[::4, ::4]}
    adata.uns["spatial"] = {"slide": {"images": images, "scalefactors": factors}}
    return adata


def colors_under(ax: Any, points: np.ndarray) -> np.ndarray:
    """Colours of the image that is drawn, at positions of the data."""
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    rows, columns = image.get_array().shape[:2]
    column = ((points[:, 0] - left) / (right - left) * columns).astype(int)
    row = ((points[:, 1] - top) / (bottom - top) * rows).astype(int)
    return image.get_array()[row, column]


@pytest.mark.parametrize("key", [None, "hires", "lowres"])
def test_the_image_is_where_the_spots_are(slide: AnnData, key: str | None) -> None:
    ax = pl.domains(slide, "domain", img_key=key)
    seen = colors_under(ax, slide.obsm["spatial"])
    left = (slide.obs["domain"] == "left").to_numpy()
    assert (seen[left] == [255, 0, 0]).all() and (seen[~left] == [0, 0, 255]).all()


def test_every_plot_of_tissue_draws_it_unless_it_should_not(slide: AnnData) -> None:
    tl.distortion_map(slide)
    tl.tissot(slide)
    plots: list[Any] = [
        lambda **how: pl.domains(slide, "domain", **how),
        lambda **how: pl.latent(slide, components=[0], **how),
        lambda **how: pl.distortion_map(slide, **how)[0],
        lambda **how: pl.tissot(slide, **how),
    ]
    for plot in plots:
        assert len(plot().images) == 1 and len(plot(img=False).images) == 0
        low, high = sorted(plot().get_ylim())
        assert plot().yaxis_inverted() and low < 600 and high > 2100
    assert not pl.tissot(slide, basis="latent").images


def test_opacity(slide: AnnData) -> None:
    assert pl.domains(slide, "domain", alpha=0.4).collections[0].get_alpha() == 0.4


def test_sections_have_the_image_of_their_name_and_no_other(slide: AnnData) -> None:
    slide.obs["section"] = np.where(np.arange(slide.n_obs) < 24, "slide", "another")
    by_name = dict(zip(("another", "slide"), pl.domains(slide, "domain", section_key="section"), strict=True))
    assert {name: len(ax.images) for name, ax in by_name.items()} == {"another": 0, "slide": 1}


def test_an_unknown_image_is_refused(slide: AnnData) -> None:
    with pytest.raises(InputError, match=r'img_key="fullres".*hires, lowres'):
        pl.domains(slide, "domain", img_key="fullres")


IMAGE = {"hires": np.zeros((9, 9))}
SCALED = {"tissue_hires_scalef": 1.0}


@pytest.mark.parametrize(
    "damage",
    [
        *({}, {"a": 3}, {"a": {"images": IMAGE}}, np.ones(3)),
        *({"a": {"images": IMAGE, "scalefactors": 3}}, {"a": {"images": "x", "scalefactors": SCALED}}),
        *(
            {"a": {"images": {"hires": image}, "scalefactors": SCALED}}
            for image in ("x", 3, np.ones((9, 9, 2)))
        ),
        *(
            {
                "a": {
                    "images": IMAGE,
                    "scalefactors": {"tissue_hires_scalef": scale, "microns_per_pixel": scale},
                }
            }
            for scale in ("x", np.nan, -1.0, 1e300, [1, 2])
        ),
    ],
    ids=str,
)
def test_images_that_cannot_be_placed_are_left_out(slide: AnnData, damage: Any) -> None:
    slide.uns["spatial"] = damage
    ax = pl.domains(slide, "domain")
    assert not ax.images and not ax.texts


def test_an_image_of_elsewhere_is_not_drawn(slide: AnnData) -> None:
    slide.obsm["spatial"] = slide.obsm["spatial"] - 10_000
    assert not pl.domains(slide, "domain").images
    slide.obsm["spatial"] = slide.obsm["spatial"] + 10_000 - 900  # half of it is on the image
    ax = pl.domains(slide, "domain")
    on = (slide.obsm["spatial"] > 0).all(axis=1)
    assert 0 < on.sum() < len(on)
    left = slide.obsm["spatial"][on, 0] < 1650
    assert (colors_under(ax, slide.obsm["spatial"][on])[left] == [255, 0, 0]).all()


@pytest.mark.parametrize("pixels", [np.ones((9, 9)), np.ones((9, 9, 1)), np.full((9, 9, 4), 255, np.uint8)])
def test_grey_transparent_and_floating_images(slide: AnnData, pixels: np.ndarray) -> None:
    slide.uns["spatial"]["slide"]["images"] = {"hires": pixels}
    found = _image.picture(slide)
    assert found is not None and found.pixels.shape == (9, 9, 3) and (found.pixels == 255).all()


# ---------------------------------------------------------------------------- scale bar


@pytest.mark.parametrize(
    ("factors", "unit", "expected"),
    [
        ({"spot_diameter_fullres": 165.0}, "", 100 / 300),  # 55 of 100 micrometres
        ({"spot_diameter_fullres": 195.0}, "", 100 / 300),  # 65, as scale factors have it
        ({"spot_diameter_fullres": 300.0}, "", None),  # no Visium slide
        ({"microns_per_pixel": 0.27, "spot_diameter_fullres": 165.0}, "", 0.27),  # Visium HD
        ({}, "micrometres", 1.0),  # Xenium, MERSCOPE
        ({}, "not given by the format", None),
    ],
)
def test_micrometres_are_those_of_the_format(
    slide: AnnData, factors: dict[str, float], unit: str, expected: float | None
) -> None:
    slide.uns["spatial"]["slide"]["scalefactors"] = factors
    slide.uns[INPUT_KEY] = {"unit": unit}
    (section,) = _spots.sections(slide, "spatial", None)
    assert section.microns == (expected if expected is None else pytest.approx(expected))
    bars = [text.get_text() for text in pl.domains(slide, "domain").texts]
    assert len(bars) == (expected is not None) and all(text.endswith(("µm", "mm")) for text in bars)


@pytest.mark.parametrize("plot", ["domains", "tissot"])
def test_the_bar_is_as_long_as_it_says(plot: str, slide: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    tl.tissot(slide)
    ax = pl.domains(slide, "domain") if plot == "domains" else pl.tissot(slide, basis="spatial")
    ax.figure.draw_without_rendering()
    assert caplog.text == ""  # matplotlib says where limits cannot be kept
    (bar,) = [line for line in ax.lines if len(line.get_xdata()) == 2]
    (text,) = ax.texts
    assert text.get_text() == "200 µm" and np.ptp(bar.get_xdata()) == pytest.approx(
        600
    )  # 300 pixels are 100 µm


# ---------------------------------------------------------------------------- print


def test_files_for_print(slide: AnnData, tmp_path: Path) -> None:
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        pl.domains(slide, "domain", save=tmp_path / f"plot.{kind}")
        assert (tmp_path / f"plot.{kind}").read_bytes().startswith(start)
    assert ">domain</text>" in (tmp_path / "plot.svg").read_text()  # text stays text
    assert min(imread(tmp_path / "plot.png").shape[:2]) > 300 * 1.8


def test_of_many_spots_some_of_each_part_are_drawn_and_said_to_be(
    slide: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not pl.domains(slide, "domain", img=False).figure.texts
    monkeypatch.setattr(_spots, "N_DRAWN", 24)
    tl.tissot(slide)
    slide.uns["spatial"] = {}
    ax = pl.domains(slide, "domain")
    (drawn,) = ax.collections
    assert len(drawn.get_offsets()) == len(drawn.get_facecolors()) == 24
    left = drawn.get_offsets()[:, 0] < 600 + 3.5 * 300
    assert 8 <= left.sum() <= 16 and len(np.unique(drawn.get_facecolors()[left], axis=0)) == 1
    for one in (ax, pl.tissot(slide), *pl.latent(slide)):
        assert [text.get_text() for text in one.texts] == ["24 of 48 spots drawn"]
