"""Plots: they show what was passed, write the file, and leave the caller's things alone."""

from __future__ import annotations

import builtins
from pathlib import Path

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from isovi import pl, tl
from isovi.errors import InputError
from isovi.pl._data import onto_tissue
from isovi.pl._palette import CATEGORICAL, MISSING, categorical, position_colors
from isovi.pl._spots import Section
from isovi.simulate import simulate


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def adata(rng) -> anndata.AnnData:
    x, y = np.meshgrid(np.arange(8.0), np.arange(6.0))
    domain = pd.Categorical((x.ravel() // 3).astype(int).astype(str))
    obs = pd.DataFrame({"isovi_domain": domain, "slide": np.repeat(["b", "a"], 24)})
    obs.index = obs.index.astype(str)
    adata = anndata.AnnData(obs=obs)
    adata.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()])
    adata.obsm["X_isovi"] = rng.normal(size=(48, 4))
    return adata


@pytest.fixture
def measured(adata) -> anndata.AnnData:
    """With what the tools write, for the plots that read it."""
    for tool in (tl.distortion_map, tl.distortion_profile, tl.spatial_autocorrelation, tl.tissot):
        tool(adata)
    return adata


@pytest.fixture
def history() -> dict[str, pd.DataFrame]:
    epochs = pd.Index(range(30), name="epoch")
    values = {
        "elbo_train": 500 + 300 * 0.8 ** np.arange(30),
        "elbo_validation": 510 + 300 * 0.8 ** np.arange(30),
        "relative_distortion_train": 0.3 + 0.5 * 0.8 ** np.arange(30),
        "multiplier_train": np.r_[np.zeros(3), np.arange(1.0, 28)],
        "distance_scale_train": np.full(30, 0.1),
        "kl_weight": np.ones(30),
    }
    return {key: pd.DataFrame({key: value}, index=epochs) for key, value in values.items()}


def draw(name: str, adata: anndata.AnnData, history: dict, **keywords: object) -> object:
    """Call one of the plots with ordinary arguments."""
    z, s = adata.obsm["X_isovi"], adata.obsm["spatial"]
    source, target = np.triu_indices(len(s), 1)
    far = {"latent": np.linalg.norm(z[source] - z[target], axis=1)}
    near = {"latent": np.linalg.norm(s[source] - s[target], axis=1)}
    arguments = {
        "domains": (adata,),
        "latent": (adata,),
        "history": (history,),
        "shepard": (far, near),
        "latent_map": ({"a": z, "b": s}, s),
        "placement": (s, s),
        "certificate": (tl.certificate(adata.copy(), cells=np.arange(48), epsilon=None),),
        "distortion_map": (adata,),
        "pareto": (
            pd.DataFrame({"reconstruction": [1.0, 2], "coordinate_error": [2.0, 1], "pareto": [True, True]}),
        ),
        "distortion_profile": (adata,),
        "spatial_autocorrelation": (adata,),
        "tissot": (adata,),
        "tissot_latents": ({"a": z, "b": s}, s),
    }
    return getattr(pl, name)(*arguments[name], **keywords)


def spot_colors(ax: Axes) -> np.ndarray:
    return ax.collections[0].get_facecolors()


@pytest.mark.parametrize("name", pl.__all__)
class TestEveryPlot:
    def test_returns_axes_and_writes_the_file(self, name, measured, history, tmp_path):
        axes = draw(name, measured, history, save=tmp_path / "figure.png")
        assert all(isinstance(ax, Axes) for ax in np.ravel(np.asarray(axes, dtype=object)))
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        draw(name, measured, history, save=str(tmp_path / "figure.svg"))
        assert "<svg" in (tmp_path / "figure.svg").read_text()

    def test_leaves_global_state_and_data_alone(self, name, measured, history, tmp_path):
        parameters, figures, before = dict(mpl.rcParams), plt.get_fignums(), measured.copy()
        draw(name, measured, history, save=tmp_path / "figure.png")
        assert dict(mpl.rcParams) == parameters
        assert plt.get_fignums() == figures
        pd.testing.assert_frame_equal(measured.obs, before.obs)
        assert set(measured.obsm) == set(before.obsm)
        assert set(measured.uns) == set(before.uns)

    def test_draws_on_the_axes_given(self, name, measured, history):
        own = draw(name, measured, history)
        count = np.size(np.asarray(own, dtype=object))
        mine = Figure().subplots(1, count, squeeze=False)[0]
        drawn = draw(name, measured, history, ax=mine[0] if count == 1 else mine)
        assert list(np.ravel(np.asarray(drawn, dtype=object))) == list(mine)
        assert all(ax.has_data() or ax.collections for ax in mine)

    def test_refuses_too_few_axes(self, name, measured, history):
        with pytest.raises(InputError, match="7 Axes were given"):
            draw(name, measured, history, ax=Figure().subplots(1, 7))


class TestDomains:
    def test_each_spot_has_its_domains_colour(self, adata):
        expected = [to_rgba(CATEGORICAL[code]) for code in adata.obs["isovi_domain"].cat.codes]
        np.testing.assert_allclose(spot_colors(pl.domains(adata)), expected)

    def test_legend_names_every_domain(self, adata):
        legend = pl.domains(adata).figure.legends[0]
        assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
        assert legend.get_title().get_text() == "isovi_domain"

    def test_a_long_legend_stands_beside_the_spots(self, adata):
        names = [f"a tissue with a long name, number {n}" for n in range(24)]
        adata.obs["label"] = pd.Categorical.from_codes(np.arange(48) % 24, names)
        axes = pl.domains(adata, "label", section_key="slide")
        figure = axes[0].figure
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert max(ax.get_window_extent().x1 for ax in axes) < legend.x0
        assert legend.x1 <= figure.bbox.x1
        assert min(ax.get_window_extent().width for ax in axes) > 2.5 * figure.dpi

    def test_equal_aspect_and_y_axis_pointing_down(self, adata):
        ax = pl.domains(adata)
        low, high = ax.get_ylim()
        assert ax.get_aspect() == 1
        assert low > high

    def test_sections_are_panels_in_order(self, adata):
        axes = pl.domains(adata, section_key="slide")
        assert [ax.get_title() for ax in axes] == ["a", "b"]
        drawn = axes[0].collections[0].get_offsets()
        np.testing.assert_array_equal(drawn, adata.obsm["spatial"][24:])

    def test_a_section_of_one_spot_or_one_place_is_drawn(self, adata):
        few = adata[[0, 1, 2, 24, 25]].copy()
        few.obsm["spatial"][3:] = [4.0, 7.0]
        for rows in (slice(0, 4), slice(0, 5)):
            axes = pl.domains(few[rows], section_key="slide")
            np.testing.assert_array_equal(axes[0].collections[0].get_offsets()[0], [4.0, 7.0])

    def test_missing_values_are_grey_and_named(self, adata):
        adata.obs["label"] = ["x"] * 47 + [None]
        ax = pl.domains(adata, "label")
        assert tuple(spot_colors(ax)[-1]) == to_rgba(MISSING)
        assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["x", "missing"]

    def test_colours_stored_with_the_data_are_used(self, adata):
        adata.uns["isovi_domain_colors"] = np.array(["#112233", "#445566", "#778899"])
        assert tuple(spot_colors(pl.domains(adata))[0]) == to_rgba("#112233")

    @pytest.mark.parametrize("keys", [{"key": "no"}, {"spatial_key": "no"}, {"section_key": "no"}])
    def test_refuses_missing_keys(self, adata, keys):
        with pytest.raises(InputError, match='"no"'):
            pl.domains(adata, **keys)

    def test_spots_of_a_grid_nearly_touch(self, adata):
        section = Section("", np.arange(48), 7 * adata.obsm["spatial"])
        assert 0.9 * 7 < section.diameter < 7
        assert section.diameter is section.diameter, "looked up once, not for each panel"

    @pytest.mark.parametrize("n", [1, 2])
    def test_few_spots_have_a_size(self, n):
        assert Section("", np.arange(n), np.arange(2.0 * n).reshape(n, 2)).diameter > 0


class TestLatent:
    def test_one_panel_for_each_component(self, adata):
        assert [ax.get_title() for ax in pl.latent(adata)] == ["Z1", "Z2", "Z3", "Z4"]
        assert pl.latent(adata, components=[2]).get_title() == "Z3"

    def test_sections_are_rows(self, adata):
        axes = pl.latent(adata, section_key="slide", components=[0, 1])
        assert [ax.get_title() for ax in axes] == ["a · Z1", "a · Z2", "b · Z1", "b · Z2"]

    def test_colours_survive_an_outlier(self, adata):
        adata.obsm["X_isovi"] = np.r_[np.linspace(-1, 1, 47), 1e9][:, None]
        reds = spot_colors(pl.latent(adata))[:47, 0]
        assert np.ptp(reds) > 0.4

    def test_constant_component_is_neutral(self, adata):
        adata.obsm["X_isovi"] = np.ones((48, 1))
        assert len(np.unique(spot_colors(pl.latent(adata)), axis=0)) == 1

    @pytest.mark.parametrize("keys", [{"use_rep": "no"}, {"components": [4]}, {"components": []}])
    def test_refuses(self, adata, keys):
        with pytest.raises(InputError):
            pl.latent(adata, **keys)


class TestHistory:
    def test_all_panels_and_the_target(self, history):
        axes = pl.history(history, target=0.25)
        assert [ax.get_title() for ax in axes] == [
            "ELBO loss",
            "relative distortion",
            "multiplier and scale λ",
        ]
        labels = [text.get_text() for text in axes[1].get_legend().get_texts()]
        assert labels == ["training", "target 0.25"]
        assert axes[2].get_yscale() == "log"

    def test_plain_backbone_has_one_panel(self, history):
        plain = {key: history[key] for key in ("elbo_train", "kl_weight")}
        ax = pl.history(plain)
        np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), history["elbo_train"]["elbo_train"])

    def test_epochs_without_validation(self, history):
        history["elbo_validation"].iloc[1::2] = np.nan
        assert len(pl.history(history)[0].get_lines()[1].get_xdata()) == 15

    def test_one_scale_for_each_section(self, history):
        history["distance_scale_train"] = pd.DataFrame({"a": np.full(30, 0.1), "b": np.full(30, 0.2)})
        axes = pl.history(history)
        assert len(axes[2].get_lines()) == 3
        assert len(axes[2].get_legend().get_texts()) == 2

    def test_refuses_an_empty_history(self):
        with pytest.raises(InputError, match="quantities: none"):
            pl.history({})


class TestShepard:
    def test_median_of_a_similarity_is_the_identity(self, rng):
        tissue = rng.uniform(1, 10, 20_000)
        ax = pl.shepard(3 * tissue, tissue, 3.0)
        identity, median = ax.get_lines()
        np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
        width = np.diff(median.get_xdata())[0]
        np.testing.assert_allclose(median.get_ydata(), median.get_xdata(), atol=width / 2)

    def test_sets_share_limits_and_are_named(self, rng):
        sets = {"training": rng.uniform(0, 1, 500), "held out": rng.uniform(0, 9, 400)}
        axes = pl.shepard(sets, sets)
        assert [ax.get_title() for ax in axes] == ["training", "held out"]
        assert axes[0].get_xlim() == axes[1].get_ylim()

    @pytest.mark.parametrize("tissue", [np.ones(3), {"": np.ones(2), "b": np.ones(2)}, np.ones(0)])
    def test_refuses_other_pairs(self, tissue):
        with pytest.raises(InputError, match="Numbers of pairs"):
            pl.shepard(np.ones(2), tissue)

    def test_few_pairs_and_collapsed_latent(self, tmp_path):
        pl.shepard(np.zeros(5), np.zeros(5), save=tmp_path / "a.png")
        assert (tmp_path / "a.png").exists()


class TestLatentMap:
    def test_similarity_of_the_tissue_is_put_back(self, rng):
        tissue = rng.normal(size=(60, 2)) * [3, 1] + 100
        turn = np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
        placed, explained = onto_tissue(0.1 * tissue @ turn - 4, tissue)
        np.testing.assert_allclose(placed, tissue, rtol=1e-9)
        assert explained == pytest.approx(1.0)

    def test_does_not_stretch(self, rng):
        tissue = rng.normal(size=(2000, 2))
        assert onto_tissue(tissue * [10, 1], tissue)[1] < 0.7

    def test_explained_is_one_minus_the_residual(self, rng):
        tissue, latent = rng.normal(size=(50, 2)), rng.normal(size=(50, 4))
        placed, explained = onto_tissue(latent, tissue)
        residual = np.square(placed - tissue).sum() / np.square(tissue - tissue.mean(axis=0)).sum()
        assert explained == pytest.approx(1 - residual)

    @pytest.mark.parametrize("latent", [np.zeros((20, 3)), np.arange(20.0)[:, None]])
    def test_degenerate_latent(self, rng, latent):
        placed, explained = onto_tissue(latent, rng.normal(size=(20, 2)))
        assert np.isfinite(placed).all()
        assert 0 <= explained < 1

    @pytest.mark.parametrize("latents", [{}, {"a": np.zeros((3, 2))}, {"a": np.zeros(20)}])
    def test_refuses(self, latents):
        with pytest.raises(InputError):
            pl.latent_map(latents, np.zeros((20, 2)))

    def test_every_panel_has_the_same_colours(self, adata):
        axes = pl.latent_map({"z": adata.obsm["X_isovi"]}, adata.obsm["spatial"])
        np.testing.assert_allclose(spot_colors(axes[0]), spot_colors(axes[1]))
        assert axes[0].yaxis_inverted()
        assert axes[1].yaxis_inverted()


class TestPalette:
    @pytest.mark.parametrize("n", [1, 8, 24, 40])
    def test_colours_differ(self, n):
        assert len(set(categorical(n))) == n

    def test_position_colours_are_smooth_and_distinct(self):
        x, y = np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 1, 30))
        colors = position_colors(np.column_stack([x.ravel(), y.ravel()])).reshape(30, 30, 3)
        assert (colors >= 0).all()
        assert (colors <= 1).all()
        assert np.abs(np.diff(colors, axis=0)).max() < 0.1
        assert np.abs(np.diff(colors, axis=1)).max() < 0.1
        assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 900


@pytest.mark.parametrize(("where", "name"), [(mpl.rcParams, "interactive"), (vars(builtins), "__IPYTHON__")])
def test_notebooks_show_a_new_figure_and_scripts_open_none(adata, monkeypatch, where, name) -> None:
    plt.close("all")
    pl.domains(adata)
    assert plt.get_fignums() == []
    monkeypatch.setitem(where, name, True)
    ax = pl.domains(adata)
    assert [plt.figure(number) for number in plt.get_fignums()] == [ax.figure]
    plt.close("all")


@pytest.mark.parametrize(
    "name", [r"$\frac{1$", "$x$", "a$b", "x" * 5000, "אבג", "", "__class__", "a\nb\tc", r"\$", "A.1"]
)
def test_names_of_any_kind_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """Fault 2: to matplotlib a section named ``$\\frac{1$`` is a formula, and a wrong one."""
    adata = simulate("layers", n_obs=60, n_genes=5, n_sections=2, seed=0)
    names = adata.obs["section"].astype(str).unique()
    adata.obs["section"] = adata.obs["section"].astype(str).replace(names[0], name).astype("category")
    adata.obs["labels"] = adata.obs["section"]
    axes = pl.domains(adata, "labels", section_key="section", save=tmp_path / "a.png")
    titles = {axis.get_title() for axis in axes}
    shown = " ".join(name.split()).replace("$", r"\$")
    assert any(title.strip().startswith(shown[:60]) for title in titles)
    assert max(map(len, titles)) <= 62
    pixels = image.imread(tmp_path / "a.png")
    assert max(pixels.shape) < 300 * 12  # inches: two panels of 3.6, and a legend of 60 letters beside them
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
