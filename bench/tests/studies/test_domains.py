"""Agreement of domains with labels and with tiles, for each kind of smoothing."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from isovi.errors import InputError
from isovi_bench.studies import domains


def bands(path: Path, noise: float) -> Path:
    """Four bands, the first column of the latent is noise about them; ten spots have no label."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    truth = (y.ravel() // 5).astype(int)
    labels = truth.astype(str).astype(object)
    labels[:10] = "undetermined"
    adata = anndata.AnnData(obs=pd.DataFrame({"layer": labels}, index=[f"s{i}" for i in range(400)]))
    adata.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()])
    adata.obsm["X_isovi"] = 3 * np.eye(4)[truth] + noise * rng.normal(size=(400, 4))
    adata.write_h5ad(path)
    return path


def test_smoothing_helps_where_there_is_noise_and_tiles_are_shown_beside(tmp_path: Path) -> None:
    files = [bands(tmp_path / "clear.h5ad", 0.1), bands(tmp_path / "noisy.h5ad", 2.0)]
    rows = domains.measure(files, label_key="layer")
    nmi = rows.pivot_table(index="way", columns="file", values="nmi")
    assert nmi.loc["X_isovi, none", "clear"] == pytest.approx(1)
    assert nmi.loc["X_isovi, auto", "noisy"] > nmi.loc["X_isovi, none", "noisy"] + 0.2
    tiles = rows[rows["way"] == domains.TILES]
    assert tiles["tiles"].eq(1).all() and (tiles["nmi"] < 0.8).all()
    lines = domains.report(rows).splitlines()
    assert lines[0] == "| way | clear | noisy | mean |"
    assert len(lines) == 2 + 4 and "| 1.000 / 1.000 / " in lines[3]


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no labels in "region"'):
        domains.measure([bands(tmp_path / "a.h5ad", 1.0)], label_key="region")
