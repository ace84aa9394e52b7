"""What is left out, guessed or converted: inspect, the log of a fit and run.json say it, with the number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from scipy import sparse
from typer.testing import CliRunner

from isovi import cli, files
from isovi.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
N, N_GENES = 60, 12


def tissue() -> AnnData:
    adata = simulate("layers", n_obs=N, n_genes=N_GENES, seed=0)
    counts = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    adata.X = sparse.csr_matrix(counts + 1, dtype=np.float32)
    adata.uns = {}
    del adata.obs["section"]
    return adata


def with_controls(adata: AnnData, folder: Path) -> list[str]:
    blank = AnnData(
        np.ones((N, 2), np.float32), obs=adata.obs, var=pd.DataFrame(index=["Blank-1", "Blank-2"])
    )
    found = concat([adata, blank], axis=1, merge="same")
    found.obsm["spatial"] = adata.obsm["spatial"]
    return written(found, folder)


def off_tissue(adata: AnnData, folder: Path) -> list[str]:
    adata.obs["inTissue"] = pd.Categorical(np.where(np.arange(N) < 15, "FALSE", "TRUE"))
    return written(adata, folder)


def unplaced(adata: AnnData, folder: Path) -> list[str]:
    adata.obsm["spatial"][:3] = np.nan
    return written(adata, folder)


def without_z(adata: AnnData, folder: Path) -> list[str]:
    adata.obsm["spatial"] = np.c_[adata.obsm["spatial"], np.full(N, np.nan)]
    return written(adata, folder)


def noisy(adata: AnnData, folder: Path) -> list[str]:
    adata.X = adata.X.astype(np.float64)
    adata.X.data[:40] += 5e-7
    return written(adata, folder)


def far_out(adata: AnnData, folder: Path) -> list[str]:
    adata.obsm["spatial"][:2] = 1e6
    return written(adata, folder)


def doubled(adata: AnnData, folder: Path) -> list[str]:
    adata.obsm["spatial"][30:] = adata.obsm["spatial"][:30]
    return written(adata, folder)


def several(adata: AnnData, folder: Path) -> list[str]:
    adata.obs["donor"] = np.where(np.arange(N) % 2, "A", "B")
    return written(adata, folder)


def slashes(adata: AnnData, folder: Path) -> list[str]:
    adata.obs["T_NK"] = 1.0
    paths = written(adata, folder)
    with h5py.File(paths[0], "r+") as file:  # as anndata 0.12 writes obs["T/NK"]
        file.move("obs/T_NK", "obs/T/NK")
        names = [name.replace("T_NK", "T/NK") for name in file["obs"].attrs["column-order"]]
        file["obs"].attrs["column-order"] = names
    return paths


def written(adata: AnnData, folder: Path) -> list[str]:
    adata.write_h5ad(folder / "x.h5ad")
    return [str(folder / "x.h5ad")]


def tables(adata: AnnData, folder: Path) -> list[str]:
    """Columns that describe cells among the counts; cells without a position, or with an empty one."""
    counts = pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)
    counts.assign(n_counts=1, cluster=2).to_csv(folder / "x.csv")
    places = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x", "y"])
    places.iloc[:4, 0] = np.nan
    places.iloc[:-5].to_csv(folder / "places.csv")
    return [str(folder / "x.csv"), "--coordinates", str(folder / "places.csv")]


def lattice(adata: AnnData, folder: Path) -> list[str]:
    """Places on an array in place of positions, some of them outside of the tissue."""
    arguments = tables(adata, folder)
    row, column = np.divmod(np.arange(N), 10)
    array = {"in_tissue": np.arange(N) > 5, "array_row": row, "array_col": 2 * column + row % 2}
    pd.DataFrame(array, index=adata.obs_names).to_csv(folder / "places.csv")
    return arguments


SAID: dict[Callable[[AnnData, Path], list[str]], list[str]] = {
    with_controls: [r"2 of 14 features are controls or no genes and are left out"],
    off_tissue: [r"15 of 60 spots are outside of the tissue \(inTissue\) and are left out"],
    unplaced: [r"3 of 60 cells have no position in obsm\[.spatial.\]"],
    without_z: [r"third column of obsm\[.spatial.\] is empty and is not used"],
    noisy: [r"40 values of the counts are whole numbers but for rounding"],
    far_out: [r"2 of 60 cells lie more than 2 tissue widths away"],
    doubled: [r"30 of 60 spots are at exactly the position of an earlier spot"],
    several: [r"donor"],
    slashes: [r"obs\[.T/NK.\] is written as obs\[.T_NK.\]"],
    tables: [
        r"2 columns of .x\.csv. describe cells and are no genes: n_counts, cluster",
        r"4 of 60 cells have an empty position in .places\.csv. and are left out",
        r"5 of 60 cells have no position in .places\.csv. and are left out",
    ],
    lattice: [
        r"6 of 60 cells lie outside of the tissue and are left out",
        r"taken as places on a hexagonal array",
    ],
}


@pytest.mark.parametrize("make", list(SAID), ids=lambda make: make.__name__)
def test_inspect_log_and_record_say_the_same(
    make: Callable[[AnnData, Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "draw", lambda *_: None)  # plots take longer than the fit
    given = make(tissue(), tmp_path)
    options = ["--out", str(tmp_path / "run"), "--max-epochs", "1", "--n-latent", "2"]
    inspected = CliRunner().invoke(cli.app, ["inspect", *given])
    fitted = CliRunner().invoke(cli.app, ["fit", *given, *options])
    assert fitted.exit_code == 0, fitted.output
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["provenance"]["notes"]
    for said in (inspected.output, fitted.output, " ".join(notes)):
        for words in SAID[make]:
            assert re.search(words, re.sub(r"[\s│]+", " ", said)), said
