"""scvi-hub: in a local folder, and against a stand-in that keeps repositories as folders."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scvi

import isovi
from isovi import hub
from isovi.errors import InputError
from isovi.simulate import simulate


def trained(cls: Any, **setup: Any) -> Any:
    adata = simulate("layers", n_obs=60, n_genes=20, seed=0)
    cls.setup_anndata(adata, **setup)
    model = cls(adata, n_latent=4, n_hidden=16)
    model.train(1, enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return trained(isovi.IsoSCVI)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("hub") / "model"
    hub.upload(model, to, license_info="cc-by-4.0", description="Some *layers*.", tissues=["cortex"])
    return to


def test_a_model_comes_back_from_a_folder_with_its_data(model: Any, folder: Path) -> None:
    back = hub.download(folder)
    assert type(back) is isovi.IsoSCVI
    np.testing.assert_array_equal(back.get_latent_representation(), model.get_latent_representation())
    assert back.distance_scale == model.distance_scale


def test_the_card_says_what_it_is(model: Any, folder: Path) -> None:
    header, _, body = (folder / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert "license: cc-by-4.0\nlibrary_name: scvi-tools\n" in header
    assert {"model_cls_name:IsoSCVI", "tissue:cortex"} <= set(json.loads(header.partition("tags: ")[2]))
    assert "Some *layers*." in body and repr(model) in body


def test_scvi_tools_own_hub_reads_it(model: Any, folder: Path) -> None:
    pytest.importorskip("huggingface_hub")
    from scvi.hub import HubModel

    theirs = HubModel(str(folder))
    assert theirs.metadata.model_cls_name == "IsoSCVI"
    np.testing.assert_array_equal(theirs.model.get_latent_representation(), model.get_latent_representation())


def test_a_backbone_of_scvi_tools_is_known_by_its_name(tmp_path: Path) -> None:
    cls = isovi.preserve_distances(scvi.model.SCANVI)
    model = trained(cls, labels_key="domain", unlabeled_category="none")
    hub.upload(model, tmp_path / "model", license_info="mit")
    assert hub.download(tmp_path / "model").predict().tolist() == model.predict().tolist()


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ('{"model_cls_name": "SCVI"}', "The model is a SCVI.*model_class="),
        ('{"model_cls_name": "IsoOther"}', "The model is a IsoOther.*model_class="),
        ("[]", r"is no model of scvi-hub \(TypeError\)"),
        ("{", r"is no model of scvi-hub \(JSONDecodeError\)"),
        (None, r"is no model of scvi-hub \(FileNotFoundError\)"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(metadata: str | None, said: str, tmp_path: Path) -> None:
    if metadata is not None:
        (tmp_path / hub.METADATA).write_text(metadata)
    with pytest.raises(InputError, match=said):
        hub.download(tmp_path)


def test_a_repository_is_made_filled_and_fetched(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class HfApi:
        def __init__(self, token: str | None) -> None:
            asked.append(token)

        def create_repo(self, repo_id: str, *, exist_ok: bool, private: bool) -> None:
            asked.append((repo_id, exist_ok, private))

        def upload_folder(self, *, repo_id: str, folder_path: str) -> None:
            shutil.copytree(folder_path, tmp_path / repo_id)

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], revision: str | None) -> str:
        asked.append(revision)
        kept = shutil.ignore_patterns("README.md")
        assert "README.md" not in allow_patterns
        return shutil.copytree(tmp_path / repo_id, tmp_path / "cache", ignore=kept)

    theirs = SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", theirs)
    hub.upload(model, "lab/layers", license_info="mit", token="secret", private=True)
    back = hub.download("lab/layers", revision="v1")
    assert asked == ["secret", ("lab/layers", True, True), "v1"]
    np.testing.assert_array_equal(back.get_latent_representation(), model.get_latent_representation())
    assert 'isovi.hub.download("lab/layers")' in (tmp_path / "lab/layers/README.md").read_text()


def test_without_the_package_it_says_what_to_install(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"isovi\[hub\]"):
        hub.upload(model, "lab/layers", license_info="mit")
    with pytest.raises(InputError, match=r"isovi\[hub\]"):
        hub.download("lab/layers")
