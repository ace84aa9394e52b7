"""Plot of spatial autocorrelation: it shows the table, and marks what is significant."""

from __future__ import annotations

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from isovi.errors import InputError
from isovi.pl._palette import CATEGORICAL
from isovi.pl.autocorrelation import spatial_autocorrelation


@pytest.fixture
def table() -> pd.DataFrame:
    """Second dimension smoothest, third not significant, fourth constant."""
    return pd.DataFrame(
        {
            "morans_i": [0.3, 0.8, 0.05, np.nan],
            "morans_i_expected": [-0.01, -0.01, -0.01, np.nan],
            "morans_i_p_adjusted": [0.04, 1e-9, 0.2, np.nan],
            "gearys_c": [0.7, 0.2, 0.97, np.nan],
            "gearys_c_expected": [1.0, 1.0, 1.0, np.nan],
            "gearys_c_p_adjusted": [0.06, 1e-9, 0.3, np.nan],
        },
        index=pd.Index(["Z1", "Z2", "Z3", "Z4"], name="dimension"),
    )


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_dimensions_are_sorted_and_named(table):
    morans_i, gearys_c = spatial_autocorrelation(table)
    assert [ax.get_title() for ax in (morans_i, gearys_c)] == ["Moran's I", "Geary's C"]
    for ax in (morans_i, gearys_c):
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Z2", "Z1", "Z3", "Z4"]
    np.testing.assert_allclose(morans_i.collections[0].get_offsets()[:3], [[1, 0.8], [2, 0.3], [3, 0.05]])
    np.testing.assert_allclose(gearys_c.collections[0].get_offsets()[:3], [[1, 0.2], [2, 0.7], [3, 0.97]])


def test_significant_dots_are_filled(table):
    full, open_ = to_rgba(CATEGORICAL[0]), to_rgba("white")
    faces = [
        [tuple(face) for face in ax.collections[0].get_facecolors()] for ax in spatial_autocorrelation(table)
    ]
    assert faces == [[full, full, open_, open_], [full, open_, open_, open_]]
    strict = spatial_autocorrelation(table, alpha=0.01)[0].collections[0].get_facecolors()
    assert [tuple(face) for face in strict] == [full, open_, open_, open_]


def test_shows_what_is_expected(table):
    table["morans_i_expected"] = [0.2, 0.5, 0.0, np.nan]
    dashed = [line for line in spatial_autocorrelation(table)[0].get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), [0.5, 0.2, 0.0, np.nan])


def test_models_are_named_and_ranked_each_by_itself(table):
    axes = spatial_autocorrelation({"scVI": table, "isoVI": table.iloc[::-1]})
    assert labels(axes[0].figure)[:2] == ["scVI", "isoVI"]
    assert axes[0].get_xlabel().startswith("dimension, ranked")
    first, second = (dots.get_offsets()[:3] for dots in axes[0].collections)
    np.testing.assert_allclose(first, second)


def test_reads_the_table_of_an_anndata(table):
    adata = anndata.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    adata.uns["smooth"] = table
    drawn = spatial_autocorrelation(adata, key="smooth")[0].collections[0].get_offsets()
    np.testing.assert_allclose(drawn, spatial_autocorrelation(table)[0].collections[0].get_offsets())
    with pytest.raises(InputError, match="it has: smooth"):
        spatial_autocorrelation(adata)


def test_values_beyond_zero_and_one_are_in_view(table):
    table["morans_i"] = [-0.4, 0.8, 0.05, np.nan]
    low, high = spatial_autocorrelation(table)[0].get_ylim()
    assert low < -0.4 and high > 1


def test_many_dimensions_have_names_that_stand(table):
    many = pd.concat([table] * 8).set_axis([f"Z{i + 1}" for i in range(32)])
    assert spatial_autocorrelation(many)[0].get_xticklabels()[0].get_rotation() == 90


def test_draws_on_the_axes_given_and_writes_the_file(table, tmp_path):
    mine = Figure().subplots(1, 2)
    assert list(spatial_autocorrelation(table, ax=mine, save=tmp_path / "a.png")) == list(mine)
    assert mine[1].get_legend() is not None
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_leaves_global_state_and_the_table_alone(table):
    parameters, figures, before = dict(mpl.rcParams), plt.get_fignums(), table.copy()
    spatial_autocorrelation(table)
    assert dict(mpl.rcParams) == parameters
    assert plt.get_fignums() == figures
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("tables", "message"),
    [({"scVI": pd.DataFrame({"morans_i": [1.0]})}, "of scVI lacks morans_i_expected"), ({}, "No table")],
)
def test_refuses(tables, message):
    with pytest.raises(InputError, match=message):
        spatial_autocorrelation(tables)


def test_refuses_one_axes(table):
    with pytest.raises(InputError, match="1 Axes were given"):
        spatial_autocorrelation(table, ax=Figure().add_subplot())
