from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from isovi import cli
from isovi.errors import InputError, OutputError
from isovi.workflow.place import PlaceOptions, place


@pytest.fixture
def query(run: Any, tmp_path: Path) -> Path:
    """The spots that the run held out."""
    adata = run.adata()
    adata[adata.obs["isovi_split"] == "heldout"].copy().write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


def test_it_writes_positions_radii_and_flags(
    run: Any, query: Path, tmp_path: Path, digest: Callable[[Path], str]
) -> None:
    before, console = digest(query), Console(file=StringIO(), width=100)
    figures = place(PlaceOptions(run.out, query, tmp_path / "placed.h5ad"), console)
    found, asked = (anndata.io.read_h5ad(path) for path in (tmp_path / "placed.h5ad", query))
    assert digest(query) == before
    assert found.obsm["X_placed"].shape == (30, 2) and np.isfinite(found.obsm["X_placed"]).all()
    assert set(found.obs) - set(asked.obs) == {"placed_radius_90", "placed_flag", "placed_section"}
    assert (found.obs["placed_radius_90"] > 0).all() and found.obs["placed_flag"].dtype == bool
    assert figures["n_cells"] == 30 and figures["n_missing_genes"] == 0
    assert sum(errors["n_cells"] for errors in figures["errors"].values()) <= 30
    said = console.file.getvalue()
    assert "Placed 30 cells" in said and "median error (spacings)" in said and "Wrote" in said


def test_a_query_without_positions_has_no_errors(run: Any, query: Path, tmp_path: Path) -> None:
    adata = anndata.io.read_h5ad(query)
    del adata.obsm["spatial"]
    kept = adata[:, 5:].copy()
    kept.write_h5ad(tmp_path / "unplaced.h5ad")
    console = Console(file=StringIO(), width=100)
    figures = place(PlaceOptions(run.out, tmp_path / "unplaced.h5ad", tmp_path / "placed.h5ad"), console)
    assert "errors" not in figures and figures["n_missing_genes"] > 0
    assert "Missing: " in console.file.getvalue()


def test_cells_without_a_finite_position_are_placed_and_left_out_of_the_errors(
    run: Any, query: Path, tmp_path: Path
) -> None:
    adata = anndata.io.read_h5ad(query)
    adata.obsm["spatial"][:4], adata.obsm["spatial"][4, 0] = np.nan, np.inf
    adata.write_h5ad(tmp_path / "some.h5ad")
    console = Console(file=StringIO(), width=100)
    figures = place(PlaceOptions(run.out, tmp_path / "some.h5ad", tmp_path / "placed.h5ad"), console)
    assert np.isfinite(anndata.io.read_h5ad(tmp_path / "placed.h5ad").obsm["X_placed"]).all()
    assert figures["n_without_position"] == 5
    assert sum(errors["n_cells"] for errors in figures["errors"].values()) == 25
    assert "5 cells have no finite position" in console.file.getvalue()


@pytest.mark.parametrize("spoiled", ["counts", "positions", "genes"])
def test_a_query_that_cannot_be_used_is_refused_before_any_work(
    run: Any, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    adata = anndata.io.read_h5ad(query)
    if spoiled == "counts":
        adata.layers["counts"] = adata.layers["counts"].astype(np.float32) * np.float32(0.5)
    elif spoiled == "positions":
        adata.obsm["spatial"] = np.zeros((30, 5))
    else:
        adata.var_names = [f"other{i}" for i in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "spoiled.h5ad")
    monkeypatch.setattr("isovi.workflow.place.fit_placer", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(InputError):
        place(PlaceOptions(run.out, tmp_path / "spoiled.h5ad", tmp_path / "placed.h5ad"))


def test_a_file_that_is_there_is_not_replaced_unless_asked(run: Any, query: Path, tmp_path: Path) -> None:
    (tmp_path / "placed.h5ad").write_text("mine")
    with pytest.raises(OutputError):
        place(PlaceOptions(run.out, query, tmp_path / "placed.h5ad"))
    assert (tmp_path / "placed.h5ad").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, query: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        place(PlaceOptions(tmp_path, query, tmp_path / "placed.h5ad"))


def test_the_command_line_places_and_prints(run: Any, query: Path, tmp_path: Path) -> None:
    arguments = ["place", str(run.out), "--query", str(query), "--out", str(tmp_path / "placed.zarr")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "Placed 30 cells" in result.output
    assert "X_placed" in anndata.io.read_zarr(tmp_path / "placed.zarr").obsm
