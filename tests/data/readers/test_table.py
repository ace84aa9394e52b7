from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isovi.data import io
from isovi.data.io import Source
from isovi.data.readers import tabular
from isovi.errors import InputError, IsoviWarning

CELLS, GENES = ["01", "02", "10"], ["Gad1", "Sst"]
COUNTS = np.array([[1, 0], [2, 5], [0, 7]])
DENSE = pd.DataFrame(COUNTS, index=CELLS, columns=GENES)
PLACES = pd.DataFrame({"cell": CELLS, "x": [0.0, 1.0, 2.0], "y": [3.0, 4.0, 9.0], "layer": ["a", "b", "b"]})


def places(folder: Path, table: pd.DataFrame = PLACES) -> Path:
    table.to_csv(folder / "places.csv", index=False)
    return folder / "places.csv"


def assert_read(adata: AnnData) -> None:
    """What every way to write the table must give."""
    found = adata[CELLS, GENES]
    assert adata.shape == found.shape
    np.testing.assert_array_equal(found.X.toarray(), COUNTS)
    assert found.X.dtype == np.float32


LONG = DENSE.rename_axis("cell").reset_index().melt("cell", var_name="gene", value_name="count")
WAYS = {
    "a.csv": lambda path: DENSE.to_csv(path),
    "b.tsv": lambda path: DENSE.to_csv(path, sep="\t", index_label="barcode"),
    "c.txt": lambda path: path.write_text(
        DENSE.to_csv(sep=" ").lstrip().replace(" ", "\t")
    ),  # as R writes it
    "d.csv.gz": lambda path: DENSE.to_csv(path, sep=";"),
    "e.parquet": lambda path: DENSE.to_parquet(path),
    "f.parquet": lambda path: DENSE.rename_axis("cell_id").reset_index().to_parquet(path, index=False),
    "g.csv": lambda path: DENSE.T.rename_axis("gene").to_csv(path),
    "h.csv": lambda path: LONG.to_csv(path, index=False),
    "i.parquet": lambda path: LONG[LONG["count"] > 0].to_parquet(path),
    "j.csv": lambda path: LONG[["gene", "count", "cell"]].to_csv(path, index=False),
}


@pytest.mark.parametrize("name", list(WAYS))
@pytest.mark.parametrize("block", [1, 2**22])
def test_a_table_is_read_however_it_is_written(
    name: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "_BLOCK_VALUES", block)
    WAYS[name](tmp_path / name)
    assert_read(io.read(tmp_path / name))
    placed = io.read(Source(tmp_path / name, coordinates=places(tmp_path)))
    assert_read(placed)
    np.testing.assert_array_equal(placed[CELLS].obsm["spatial"], PLACES[["x", "y"]])
    assert placed[CELLS].obs["layer"].tolist() == ["a", "b", "b"]


def test_positions_tell_that_genes_are_in_rows(tmp_path: Path) -> None:
    DENSE.T.to_csv(tmp_path / "counts.csv")
    assert io.read(tmp_path / "counts.csv").obs_names.tolist() == GENES, "nothing tells it"
    assert_read(io.read(Source(tmp_path / "counts.csv", coordinates=places(tmp_path))))


def test_counts_that_come_twice_are_added(tmp_path: Path) -> None:
    pd.concat([LONG, LONG]).to_csv(tmp_path / "counts.csv", index=False)
    np.testing.assert_array_equal(io.read(tmp_path / "counts.csv")[CELLS, GENES].X.toarray(), 2 * COUNTS)


@given(
    counts=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=9),
    block=st.integers(1, 40),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_size_of_blocks_does_not_matter(
    counts: list[list[int]], block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "_BLOCK_VALUES", block)
    table = pd.DataFrame(counts, columns=list("abc")) + np.eye(len(counts), 3, dtype=int)
    table = table[table.sum(axis=1) > 0]
    table.to_csv(tmp_path / "counts.csv")
    np.testing.assert_array_equal(io.read(tmp_path / "counts.csv").X.toarray(), table)


def test_cells_without_position_are_left_out(tmp_path: Path) -> None:
    DENSE.to_csv(tmp_path / "counts.csv")
    source = Source(tmp_path / "counts.csv", coordinates=places(tmp_path, PLACES.iloc[[2, 0]]))
    with pytest.warns(IsoviWarning, match=r"1 of 3 cells have no position in \"places.csv\""):
        found = io.read(source)
    assert found.obs_names.tolist() == ["01", "10"]
    assert found.obsm["spatial"].tolist() == [[0, 3], [2, 9]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Gad1,Sst\n1,0\n2,5\n", "cannot be interpreted"),
        ("who,what,much\na,b,1\n", "'what' cannot be interpreted"),
        ("cell,Gad1\na,much\n", "'Gad1'"),
        ("cell,gene,count\na,b,much\n", "'count'"),
        ("cell,Gad1\n", "has no rows"),
        ("", "damaged or not a table"),
    ],
)
def test_what_is_no_table_of_counts_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        io.read(tmp_path / "counts.csv")
