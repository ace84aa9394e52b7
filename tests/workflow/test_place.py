from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from isovi.workflow.place import PlaceOptions, place
from rich.console import Console
from typer.testing import CliRunner

from isovi import cli
from isovi.errors import InputError, OutputError


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
