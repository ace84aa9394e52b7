"""Folders are made as they are read, and memory is compared with the matrix."""

from __future__ import annotations

from pathlib import Path

import pytest

from isovi.data import io
from isovi_bench.timings import reading


@pytest.mark.parametrize("kind", list(reading.SIZES))
def test_folders_are_of_their_kind_and_complete(kind: str, tmp_path: Path) -> None:
    reading.MAKERS[kind](tmp_path / kind, 300)
    known = {"visium_hd": "10x Visium HD", "visium_hd_cells": "10x Visium HD, segmented cells"}
    assert io.find(tmp_path / kind).kind == known.get(kind, "10x Xenium")
    found = io.read(tmp_path / kind)
    assert found.shape == (300, reading.N_GENES)
    assert found.obsm["spatial"].shape == (300, 2)


def test_memory_is_compared_with_the_matrix(tmp_path: Path) -> None:
    found = reading.measure(tmp_path, ["visium_hd"], n_obs=2000)
    assert found["cells"].tolist() == [2000] and (found["matrix_mb"] > 0.5).all()
    ratio = found["peak_mb"][0] / found["matrix_mb"][0]
    assert found["ratio"][0] == pytest.approx(ratio, rel=0.1), "of numbers that are rounded"
    assert not any(tmp_path.iterdir()), "the folder is removed"
    assert "ratio" in reading.table(found)
