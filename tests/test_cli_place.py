from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import pytest
from typer.testing import CliRunner, Result

from isovi import cli


@pytest.fixture
def query(run: Any, tmp_path: Path) -> Path:
    """The spots that the run held out."""
    adata = run.adata()
    adata[adata.obs["isovi_split"] == "heldout"].copy().write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


def place(run: Any, query: Path, out: Path, *more: str) -> Result:
    arguments = ["place", str(run.out), "--query", str(query), "--out", str(out), *more]
    return CliRunner().invoke(cli.app, arguments)


def test_it_places_and_prints_the_errors_of_each_section(run: Any, query: Path, tmp_path: Path) -> None:
    result = place(run, query, tmp_path / "placed.zarr")
    assert result.exit_code == 0, result.output
    assert "Placed 30 cells" in result.output and "Wrote" in result.output
    assert "median error (spacings)" in result.output and "section_1" in result.output
    assert "X_placed" in anndata.io.read_zarr(tmp_path / "placed.zarr").obsm


def test_without_positions_there_is_no_table(run: Any, query: Path, tmp_path: Path) -> None:
    adata = anndata.io.read_h5ad(query)
    del adata.obsm["spatial"]
    adata.write_h5ad(query)
    result = place(run, query, tmp_path / "placed.h5ad")
    assert result.exit_code == 0, result.output
    assert "Placed 30 cells" in result.output and "median error" not in result.output


def test_a_file_is_replaced_only_with_the_option(run: Any, query: Path, tmp_path: Path) -> None:
    (tmp_path / "placed.h5ad").write_text("mine")
    refused = place(run, query, tmp_path / "placed.h5ad")
    assert refused.exit_code == 2 and "exists" in refused.stderr
    assert (tmp_path / "placed.h5ad").read_text() == "mine"
    assert place(run, query, tmp_path / "placed.h5ad", "--force").exit_code == 0
    assert "X_placed" in anndata.io.read_h5ad(tmp_path / "placed.h5ad").obsm
