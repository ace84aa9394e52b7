from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from isovi import InputError, IsoviWarning, cli, files
from isovi.progress import Progress
from isovi.run import Run


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
    (tmp_path / "mine.h5ad").write_text("mine")
    for force in ((), ("--force",)):  # it replaces placements only
        refused = place(run, query, tmp_path / "mine.h5ad", *force)
        assert refused.exit_code == 2 and "exists" in refused.stderr
        assert (tmp_path / "mine.h5ad").read_text() == "mine"
    assert place(run, query, tmp_path / "placed.h5ad").exit_code == 0
    assert place(run, query, tmp_path / "placed.h5ad").exit_code == 2
    assert place(run, query, tmp_path / "placed.h5ad", "--force").exit_code == 0
    assert "X_placed" in anndata.io.read_h5ad(tmp_path / "placed.h5ad").obsm


def test_errors_are_over_cells_that_are_not_of_the_reference(
    run: Any, query: Path, tissue_file: Path, tmp_path: Path
) -> None:
    result = place(run, tissue_file, tmp_path / "placed.h5ad")
    assert result.exit_code == 0, result.output
    assert "trained or calibrated on 90 of the 120 cells; errors are over the others" in result.output
    counted = next(line for line in result.output.splitlines() if "cells " in line and "Placed" not in line)
    assert sum(int(word) for word in counted.split() if word.isdigit()) <= 30
    own = anndata.io.read_h5ad(tissue_file)[run.adata().obs["isovi_split"].to_numpy() == "train"].copy()
    own.write_h5ad(query)
    result = place(run, query, tmp_path / "own.h5ad")
    assert "no errors are reported" in result.output and "median error" not in result.output


def test_sections_with_few_reference_spots_are_named(run: Any) -> None:
    said: list[str] = []
    progress = Progress()
    progress.say = said.append  # type: ignore[method-assign]
    spots = run.run.spots
    split = spots.split.copy()
    split[np.flatnonzero(spots.section == 1)[2:]] = "heldout"
    split[np.flatnonzero(spots.section == 1)[:2]] = "train"
    few = Run.read(run.out)
    few.spots = replace(spots, split=split)
    usable = files.reference_spots(few, progress)
    assert not usable[spots.section == 1].any() and usable[spots.section == 0].sum() > 10
    assert said == ["1 of 2 sections are left out: fewer than 3 of their spots were not held out"]
    few.spots = replace(spots, split=np.where(np.arange(len(spots)) < 2, "train", "heldout"))
    with pytest.raises(InputError, match="Of 2 sections none has more than"):
        files.reference_spots(few, progress)


def test_columns_that_are_there_are_not_replaced_without_a_word(
    run: Any, query: Path, tmp_path: Path
) -> None:
    cells = anndata.io.read_h5ad(query)
    cells.obs["placed_section"] = "mine"
    cells.write_h5ad(tmp_path / "again.h5ad")
    with pytest.warns(IsoviWarning, match=r'already has obs\["placed_section"\], which the result replaces'):
        files.place(run.out, tmp_path / "again.h5ad", tmp_path / "placed.h5ad")
    placed = anndata.io.read_h5ad(tmp_path / "placed.h5ad")
    assert "mine" not in set(placed.obs["placed_section"].astype(str))
