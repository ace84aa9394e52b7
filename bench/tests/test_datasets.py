from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import anndata
import h5py
import numpy as np
import pytest
import scanpy as sc
from matplotlib import image

from isovi.errors import InputError
from isovi.simulate import simulate
from isovi_bench.datasets import DataSet, examine, load, visium


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two sections; the second lacks a gene."""
    for name, seed, n_genes in (("a", 0, 12), ("b", 1, 11)):
        adata = simulate("layers", 40, n_genes, seed=seed)
        adata.obs["donor"] = name
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    return [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]


def test_a_file_is_read_as_it_is(files: list[str]) -> None:
    assert (load(DataSet(name="x", path=files[0])).X != anndata.io.read_h5ad(files[0]).X).nnz == 0


def test_several_files_are_sections_on_the_genes_that_they_share(files: list[str]) -> None:
    dataset = DataSet(name="x", path=files)
    adata = load(dataset)
    assert adata.shape == (80, 11) and adata.obs_names.is_unique
    assert list(adata.obs[dataset.sections].unique()) == ["a", "b"]
    facts = examine(dataset, dict.fromkeys(files, "d"))
    assert (facts.n_obs, facts.sections, facts.donors) == (80, ("a", "b"), ())


def test_spots_of_each_file_are_drawn_the_same_ones_each_time(files: list[str]) -> None:
    dataset = DataSet(name="x", path=files, n_obs=30)
    adata = load(dataset)
    assert adata.obs[dataset.sections].value_counts().to_dict() == {"a": 30, "b": 30}
    assert list(load(dataset).obs_names) == list(adata.obs_names)
    assert set(adata.obs_names) < set(load(DataSet(name="x", path=files)).obs_names)
    assert examine(dataset, dict.fromkeys(files, "d")).n_obs == 60
    assert load(DataSet(name="x", path=files[0], n_obs=50)).n_obs == 40  # there are no more


def test_spots_that_are_simulated_are_not_drawn_from() -> None:
    with pytest.raises(ValueError, match="simulate has an n_obs of its own"):
        DataSet(name="x", simulate={"kind": "layers"}, n_obs=30)


def test_a_section_key_goes_before_the_files(files: list[str]) -> None:
    dataset = DataSet(name="x", path=files, section_key="section", donor_key="donor")
    facts = examine(dataset, dict.fromkeys(files, "d"))
    assert (facts.sections, facts.donors) == (("section_0",), ("a", "b"))


def test_the_digest_is_of_content_and_its_order(files: list[str]) -> None:
    digests = dict(zip(files, ("d", "e"), strict=True))
    found = [examine(DataSet(name="x", path=path), digests).digest for path in (files, files[::-1], files[0])]
    assert len(set(found)) == 3


def test_a_simulation_is_known_by_its_arguments() -> None:
    arguments = {"kind": "ring", "n_obs": 40, "n_genes": 10, "seed": 3}
    dataset = DataSet(name="x", simulate=arguments)
    assert (load(dataset).X != simulate(**arguments).X).nnz == 0
    again = examine(DataSet(name="y", simulate=dict(reversed(arguments.items()))), {})
    other = examine(DataSet(name="x", simulate={**arguments, "seed": 4}), {})
    assert examine(dataset, {}).digest == again.digest != other.digest


def test_wrong_arguments_of_a_simulation_are_refused() -> None:
    with pytest.raises(InputError, match="n_cells"):
        examine(DataSet(name="x", simulate={"n_cells": 3}), {})


@pytest.mark.parametrize("key", ["label_key", "section_key", "donor_key"])
def test_a_missing_column_is_refused(files: list[str], key: str) -> None:
    with pytest.raises(InputError, match='no column "nothing"'):
        examine(DataSet(name="x", path=files[0], **{key: "nothing"}), {files[0]: "d"})


def test_paths_are_relative_to_a_folder(tmp_path: Path) -> None:
    dataset = DataSet(name="x", path="one/a.h5ad").placed(tmp_path, tmp_path)
    assert dataset.path == (str(tmp_path / "one" / "a.h5ad"),)


# ---------------------------------------------------------------------------- downloads


class Served(BytesIO):
    """What comes over the network."""

    def info(self) -> dict[str, str]:
        return {"content-length": str(len(self.getvalue()))}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that were asked for, of a server that has one section as 10x Genomics publishes it."""
    published = {"matrix.h5": counts_of_10x(tmp_path), "_spatial.tar.gz": pictures_of_10x(tmp_path)}
    asked: list[str] = []

    def open_address(request: Request, *_: Any, **__: Any) -> Served:
        asked.append(request.full_url)
        return Served(next(held for end, held in published.items() if request.full_url.endswith(end)))

    monkeypatch.setattr("urllib.request.urlopen", open_address)
    return asked


def counts_of_10x(folder: Path) -> bytes:
    """Three genes, two of one name, in four spots; gene g of spot s has g + s + 1 counts."""
    with h5py.File(folder / "matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array(["V1_Mouse"], dtype="S")
        group = file.create_group("matrix")
        group["barcodes"] = np.array([f"spot{i}-1" for i in range(4)], dtype="S")
        group["data"] = (np.arange(4)[:, None] + np.arange(3) + 1).ravel().astype(np.int32)
        group["indices"], group["indptr"] = np.tile(np.arange(3), 4), np.arange(0, 13, 3)
        group["shape"] = np.array([3, 4], dtype=np.int32)
        features = group.create_group("features")
        features["id"], features["genome"] = np.array(["E1", "E2", "E3"], "S"), np.array(["mm10"] * 3, "S")
        features["name"] = np.array(["Actb", "Actb", "Mbp"], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 3, "S")
    return (folder / "matrix.h5").read_bytes()


def pictures_of_10x(folder: Path) -> bytes:
    """Plots, their scale and positions: x = 10, 20, 30, 40 and y = 5, 6, 7, 8."""
    spatial = folder / "spatial"
    spatial.mkdir()
    for name in ("hires", "lowres"):
        image.imsave(spatial / f"tissue_{name}_image.png", np.zeros((4, 4, 3)))
    (spatial / "scalefactors_json.json").write_text('{"spot_diameter_fullres": 1.0}')
    rows = [f"spot{i}-1,1,0,{i},{5 + i},{10 * (i + 1)}" for i in range(4)]
    (spatial / "tissue_positions_list.csv").write_text("\n".join(rows))
    with tarfile.open(folder / "spatial.tar.gz", "w:gz") as archive:
        archive.add(spatial, "spatial")
    return (folder / "spatial.tar.gz").read_bytes()


def test_a_section_is_downloaded_once(tmp_path: Path, asked: list[str]) -> None:
    before = sc.settings.datasetdir.resolve()
    for _ in range(2):
        placed = DataSet(name="x", visium="V1_Mouse").placed(tmp_path, tmp_path / "new" / "data")
    assert len(asked) == 2 and all("/V1_Mouse/V1_Mouse_" in address for address in asked)
    assert sc.settings.datasetdir.resolve() == before
    adata = load(placed)
    np.testing.assert_array_equal(adata.X.toarray(), np.arange(4)[:, None] + np.arange(3) + 1)
    np.testing.assert_array_equal(adata.obsm["spatial"], [[10, 5], [20, 6], [30, 7], [40, 8]])
    assert adata.var_names.is_unique and not adata.uns


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_address(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", open_address)
    with pytest.raises(InputError, match=r"no route to host.*takes a network.*V1_Mouse\.h5ad"):
        visium("V1_Mouse", tmp_path / "new" / "data")
    assert not list(tmp_path.rglob("*.h5ad"))
