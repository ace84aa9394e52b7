from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc

from isovi.bench.datasets import DataSet, examine, load, visium
from isovi.errors import InputError
from isovi.simulate import simulate


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


def test_a_section_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path]] = []

    def download(name: str) -> anndata.AnnData:
        asked.append((name, sc.settings.datasetdir))
        adata = simulate("layers", 30, 5)
        adata.uns["spatial"] = {name: {"images": {"hires": np.zeros((4, 4))}}}
        return adata

    monkeypatch.setattr(sc.datasets, "visium_sge", download)
    before = sc.settings.datasetdir.resolve()
    for _ in range(2):
        placed = DataSet(name="x", visium="V1_Mouse").placed(tmp_path, tmp_path / "data")
    assert asked == [("V1_Mouse", tmp_path / "data" / "visium")]
    assert sc.settings.datasetdir.resolve() == before
    adata = load(placed)
    assert adata.n_obs == 30 and not adata.uns


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: str) -> anndata.AnnData:
        raise OSError("no route to host")

    monkeypatch.setattr(sc.datasets, "visium_sge", download)
    with pytest.raises(InputError, match=r"no route to host.*takes a network.*V1_Mouse\.h5ad"):
        visium("V1_Mouse", tmp_path)
    assert not list(tmp_path.glob("*.h5ad"))
