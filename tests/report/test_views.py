"""The spots of a report: none hidden, none moved, and colours that say what they mean."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from PIL import Image as Pillow

from isovi import pl, tl
from isovi.pl import _data
from isovi.report import views
from isovi.report.record import Channel
from isovi.report.summarise import Report
from isovi.run import Run
from isovi.tl.metrics import lognorm, morans_i_per_dimension, spatial_neighbors


def channels(written: Report) -> dict[str, Channel]:
    return {channel.label: channel for channel in written.spots.channels}


def test_values_are_those_of_the_run(written: Report, folder: Path) -> None:
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    found = channels(written)
    assert written.spots.names.tolist() == adata.obs_names.tolist()
    domain = found["domain"]
    names = np.array(domain.categories)[domain.values]
    assert names.tolist() == adata.obs["isovi_domain"].astype(str).tolist()
    assert set(found["split"].categories) == {"held out", "training", "validation"}
    assert np.allclose(found["latent 2"].values, adata.obsm["X_isovi"][:, 1])
    assert {"label (domain)", "section (section)", "relative distortion", "stretch", "anisotropy"} <= set(
        found
    )


def test_genes_on_offer_are_the_smoothest_in_tissue(written: Report, folder: Path) -> None:
    run = Run.read(folder)
    expression = lognorm(run.adata.X)
    graph = spatial_neighbors(run.spots.coordinates, run.spots.section)
    smooth = morans_i_per_dimension(expression, graph)
    used = run.adata.var["isovi_gene"].to_numpy()
    smoothest = run.adata.var_names[used][np.argsort(-smooth[used])[: views.N_GENES]]
    genes = [channel for channel in written.spots.channels if channel.group.startswith("Genes")]
    assert [gene.label for gene in genes] == smoothest.tolist()
    assert np.allclose(genes[0].values, expression[:, run.adata.var_names.get_loc(genes[0].label)], rtol=1e-4)


def test_gene_symbols_are_told_where_the_file_has_them() -> None:
    genes = pd.DataFrame({"symbol": ["MOBP", "", "X"]}, index=["ENSG1", "ENSG2", "X"])
    assert views._gene_names(genes) == ["MOBP (ENSG1)", "ENSG2", "X"]
    assert views._gene_names(genes[[]]) == ["ENSG1", "ENSG2", "X"]


def test_missing_labels_are_a_category_of_their_own(folder: Path) -> None:
    run = Run.read(folder)
    run.adata.obs["label"] = run.adata.obs["domain"].where(np.arange(run.adata.n_obs) > 10)
    channel = views._category("label", _data.groups(run.adata.obs["label"]), np.arange(run.adata.n_obs), "")
    assert channel.categories[-1] == "missing"
    assert (channel.values[:11] == len(channel.categories) - 1).all()
    assert channel.values.dtype == np.uint8


def test_of_many_spots_some_are_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "N_SHOWN", 100)
    run = Run.read(folder)
    for name in ("isovi_distortion", "isovi_distortion_stretch", "isovi_tissot_anisotropy"):
        run.adata.obs[name] = np.arange(run.adata.n_obs, dtype=float)
    shown, _ = views.views(run, views.shown_rows(run), None)
    assert len(shown.names) == len(shown.tissue) == len(shown.latent) == 100
    rows = run.adata.obs_names.get_indexer(shown.names)
    assert {channel.values.shape for channel in shown.channels} == {(100,)}
    values = {channel.label: channel.values for channel in shown.channels}
    assert np.array_equal(values["anisotropy"], rows.astype(np.float32))


def test_a_run_whose_counts_stayed_elsewhere_offers_no_genes(folder: Path) -> None:
    run = Run.read(folder)
    run.adata.X = None
    assert views.expression_of(run, np.arange(5)) is None


def test_genes_of_a_layer_show_the_counts_of_that_layer(folder: Path) -> None:
    run = Run.read(folder)
    run.adata.layers["counts"], run.adata.X = run.adata.X, run.adata.X[::-1]
    run.settings = replace(run.settings, layer="counts")
    matrix, names = views.expression_of(run, np.arange(20))
    counts = run.adata.layers["counts"][:20]
    expected = lognorm(counts)[:, run.adata.var_names.get_indexer(names)]
    assert np.allclose(matrix.toarray(), expected, rtol=1e-4)


def test_ranges_of_colours_are_those_of_pl(written: Report, folder: Path) -> None:
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    found = channels(written)
    latent = adata.obsm["X_isovi"][:, 0]
    ends = np.quantile(np.abs(latent - np.median(latent)), 0.98, method="lower")
    shown = found["latent 1"]
    assert shown.scale == "diverging"
    assert (shown.low, shown.high) == pytest.approx((np.median(latent) - ends, np.median(latent) + ends))
    tl.distortion_map(adata, section_key="section")
    bar = pl.distortion_map(adata, section_key="section")[0].figure.axes[-2]
    assert bar.get_ylim() == pytest.approx(
        (found["relative distortion"].low, found["relative distortion"].high)
    )
    colors = [to_rgba(color) for color in found["domain"].colors]
    drawn = pl.domains(adata).collections[0].get_facecolors()
    assert np.allclose(drawn, np.array(colors)[found["domain"].values])
    assert written.spots.diameter == pytest.approx(_data.diameter(written.spots.tissue))


# ---------------------------------------------------------------------------- pictures, scale and parts


def test_the_picture_is_under_its_own_section(written: Report, folder: Path) -> None:
    """One of the two sections has one, of which a pixel is ten units of the positions."""
    run = Run.read(folder)
    (image,) = written.spots.images
    name = run.spots.sections[1]
    inside = run.spots.section == 1
    places = written.spots.tissue[inside]
    low, high = places.min(axis=0), places.max(axis=0)
    assert image.x <= low[0] and image.y <= low[1]
    assert image.x + image.width >= high[0] and image.y + image.height >= high[1]
    pixels = np.asarray(Pillow.open(io.BytesIO(image.jpeg)))
    share = (places - [image.x, image.y]) / [image.width, image.height]
    rows, columns = pixels.shape[:2]
    seen = pixels[(share[:, 1] * rows).astype(int), (share[:, 0] * columns).astype(int)].astype(float)
    x = run.spots.positions[inside, 0]
    shade = 255 * x / x.max()  # as in conftest.py: brighter to the right
    assert np.abs(seen.mean(axis=1) - shade).max() < 12
    assert name in run.adata.uns["spatial"]


def test_scale_bars_are_as_long_as_they_say(written: Report) -> None:
    (bar,) = written.spots.bars
    assert bar.words.endswith(" µm") and bar.length == pytest.approx(
        float(bar.words[:-3]) / 100
    )  # spots' pitch


@pytest.mark.parametrize("keys", [("X_isovi_place", "X_isovi_identity"), ("X_isovi_place",), ()])
def test_place_and_identity_have_views_where_the_latent_has_both(folder: Path, keys: tuple[str, ...]) -> None:
    run = Run.read(folder)
    for name in ("isovi_distortion", "isovi_distortion_stretch", "isovi_tissot_anisotropy"):
        run.adata.obs[name] = 0.0
    for key in ("X_isovi_place", "X_isovi_identity"):
        run.adata.obsm.pop(key, None)
    for key in keys:
        run.adata.obsm[key] = run.adata.obsm["X_isovi"][:, :2]
    shown, _ = views.views(run, np.arange(50), None)
    assert [name for name, _ in shown.parts] == (["place", "identity"] if len(keys) == 2 else [])
    assert all(places.shape == (50, 2) for _, places in shown.parts)
