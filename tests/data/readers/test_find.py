from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isovi.data import io
from isovi.data.io import Source
from isovi.data.readers.find import find
from isovi.errors import InputError


def test_a_folder_of_something_else_is_listed(tmp_path: Path) -> None:
    for name in ("web_summary.html", "metrics.csv"):
        (tmp_path / name).touch()
    (tmp_path / "spatial").mkdir()
    with pytest.raises(InputError) as caught:
        find(tmp_path)
    assert "with metrics.csv, spatial/, web_summary.html" in caught.value.received
    for looked_for in ("SpatialData", "Visium HD", "binned_outputs", "cells.parquet", "counts table"):
        assert looked_for in caught.value.rule


def test_many_files_are_not_all_listed(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.fastq").touch()
    with pytest.raises(InputError, match=r"11\.fastq and 28 more\. Looked for"):
        find(tmp_path)


@pytest.mark.parametrize("name", ["a.h5ad.gz", "s.zarr.zip", "outs.tar.gz"])
def test_archives_are_to_be_unpacked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"has the suffix .* Unpack it first\."):
        find(tmp_path / name)


@pytest.mark.parametrize("end", ["csv.gz", "parquet"])
@pytest.mark.parametrize("start", ["", "S1_"])
def test_tables_of_proseg_are_refused_by_name(start: str, end: str, tmp_path: Path) -> None:
    for name in ("expected-counts", "cell-metadata", "transcript-metadata"):
        (tmp_path / f"{start}{name}.{end}").touch()
    with pytest.raises(InputError, match=r"tables of proseg, .* Name the \.zarr store that proseg 3 writes"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"table": "t"}, r"`table` was given with .*, which is AnnData\. It applies to SpatialData\."),
        ({"coordinate_system": "c"}, "`coordinate_system` was given"),
    ],
)
def test_options_of_another_kind_are_refused(option: dict[str, str], words: str, tmp_path: Path) -> None:
    AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(InputError, match=words):
        io.read(Source(tmp_path / "x.h5ad", **option))


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "counts.csv").write_text("cell,g\na,1\n")
    (tmp_path / "xy.csv").write_text("cell,x,y\na,1,2\n")
    assert io.read(Source(Path("~/counts.csv"), coordinates=Path("~/xy.csv"))).obsm["spatial"].tolist() == [
        [1, 2]
    ]


@pytest.mark.parametrize("names", [("feature_slices", "features", "masks"), ("barcode_idx", "count"), ()])
def test_other_h5_files_of_10x_are_refused_with_the_name_of_the_matrix(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "feature_slice.h5"
    with h5py.File(path, "w") as file:
        for name in names:
            file.create_group(name)
    with pytest.raises(InputError, match=r"no matrix of counts.*filtered_feature_bc_matrix\.h5"):
        io.read(path)


def test_a_damaged_matrix_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "counts.h5").write_text("text")
    with pytest.raises(InputError, match=r"not an HDF5 file.*It must be a 10x matrix"):
        io.read(tmp_path / "counts.h5")


def test_a_reader_hashes_its_files_once(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = pd.DataFrame({"cell": adata.obs_names, "x": range(adata.n_obs), "y": 0.5})
    positions.to_csv(tmp_path / "xy.csv", index=False)
    adata.write_h5ad(tmp_path / "x.h5ad")
    opened: list[str] = []
    digest_of = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, *args: (opened.append(file.name), digest_of(file, *args))[1]
    )
    reader = io.find(Source(tmp_path / "x.h5ad", coordinates=tmp_path / "xy.csv"))
    digest = reader.digest
    assert reader.read().n_obs == adata.n_obs and reader.digest == digest
    assert opened == [str(tmp_path / "x.h5ad"), str(tmp_path / "xy.csv")]
    (tmp_path / "xy.csv").write_text((tmp_path / "xy.csv").read_text().replace("0.5", "0.75"))
    again = Source(tmp_path / "x.h5ad", coordinates=tmp_path / "xy.csv")
    assert io.digest(again) == io.find(again).digest != digest
