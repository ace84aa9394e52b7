"""Run folders of strangers: nothing is executed, nothing outside is read, and every command ends with 2."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from isovi import InputError
from isovi.cli import app
from isovi.diagnose import diagnose
from isovi.files import place
from isovi.run import Run

VERBS: dict[str, Callable[[Path], list[str]]] = {
    "place": lambda out: ["place", str(out), "--query", str(out / "adata.h5ad"), "--out", f"{out}.h5ad"],
    "diagnose": lambda out: ["diagnose", str(out)],
}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def out(run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.out, tmp_path / "run"))


def pickled(out: Path, model: Any, unsealed: Callable[[Path], Path], mark: Path | None = None) -> None:
    """Give a run without checksums, as of 0.1.0, a model.pt with a payload or without."""
    unsealed(out)
    shutil.rmtree(out / "model")
    model.save(out / "model", scvi_format=True)
    if mark is not None:
        content = torch.load(out / "model" / "model.pt", weights_only=False)
        content["attr_dict"]["payload_"] = Payload(mark)
        torch.save(content, out / "model" / "model.pt")


def said(command: list[str]) -> tuple[int, str]:
    found = CliRunner().invoke(app, command)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, " ".join(found.output.split())


@pytest.mark.parametrize("verb", VERBS)
def test_a_pickle_is_not_executed(run: Any, out: Path, unsealed: Any, tmp_path: Path, verb: str) -> None:
    mark = tmp_path / "executed"
    pickled(out, run.model, unsealed, mark)
    code, text = said(VERBS[verb](out))
    assert code == 2 and "may execute code" in text and "--trust-pickle" in text and "trust=True" not in text
    assert not mark.exists()
    for call in (
        lambda: Run.read(out).model,
        lambda: diagnose(out),
        lambda: place(out, out / "adata.h5ad", tmp_path / "p.h5ad"),
    ):
        with pytest.raises(InputError, match="trust=True"):
            call()
        assert not mark.exists()
    torch.load(out / "model" / "model.pt", weights_only=False)
    assert mark.exists(), "the payload works"


def test_it_is_executed_when_it_is_trusted(run: Any, out: Path, unsealed: Any, tmp_path: Path) -> None:
    pickled(out, run.model, unsealed, tmp_path / "executed")
    assert said([*VERBS["place"](out), "--trust-pickle"])[0] == 0
    assert (tmp_path / "executed").exists()
    assert Run.read(out, trust=True).model.is_trained


def test_a_usual_pickle_needs_no_trust(run: Any, out: Path, unsealed: Any) -> None:
    pickled(out, run.model, unsealed)
    assert said(VERBS["place"](out))[0] == 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_pickle_in_the_data_is_not_executed(out: Path, unsealed: Any, tmp_path: Path, verb: str) -> None:
    mark = tmp_path / "executed"
    payload = pickle.dumps(Payload(mark))
    unsealed(out)
    with h5py.File(out / "adata.h5ad", "a") as file:
        for place in ("/", "obs", "uns", "obsm/X_isovi"):
            file[place].attrs["pickled"] = np.void(payload)
    assert said(VERBS[verb](out))[0] == 0, "attributes that nobody asks for are data like any other"
    assert not mark.exists()
    pickle.loads(payload)
    assert mark.exists(), "the payload works"


def external(out: Path) -> None:
    with h5py.File(out.parent / "secret.h5", "w") as file:
        file["x"] = [1.0]
    with h5py.File(out / "adata.h5ad", "a") as file:
        file["uns/stolen"] = h5py.ExternalLink(str(out.parent / "secret.h5"), "x")


def huge(out: Path) -> None:
    with h5py.File(out / "adata.h5ad", "a") as file:
        file.create_dataset("obsm/huge", (10**12, 2), "f4", chunks=(1000, 2))


def linked(name: str) -> Callable[[Path], None]:
    def link(out: Path) -> None:
        (out / name).rename(out.parent / "elsewhere")
        (out / name).symlink_to(out.parent / "elsewhere")

    return link


def folder_for_file(out: Path) -> None:
    (out / "model" / "model.json").unlink()
    (out / "model" / "model.json").mkdir()


HOSTILE = {
    "external link": external,
    "10^12 entries": huge,
    "model elsewhere": linked("model"),
    "weights elsewhere": linked("model/model.safetensors"),
    "data elsewhere": linked("adata.h5ad"),
    "no model": lambda out: shutil.rmtree(out / "model"),
    "an empty model": lambda out: [file.unlink() for file in (out / "model").iterdir()],
    "empty weights": lambda out: (out / "model" / "model.safetensors").write_bytes(b""),
    "weights of text": lambda out: (out / "model" / "model.safetensors").write_text("text"),
    "a folder for a file": lambda out: (
        (out / "model" / "model.json").unlink(),
        (out / "model" / "model.json").mkdir(),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("verb", VERBS)
def test_hostile_folders_are_refused(out: Path, verb: str, name: str) -> None:
    query = out.parent / "query.h5ad"
    shutil.copy(out / "adata.h5ad", query)
    HOSTILE[name](out)
    before = sorted(out.parent.rglob("*"))
    code, text = said([str(query) if word == str(out / "adata.h5ad") else word for word in VERBS[verb](out)])
    assert code == 2 and "Error" in text
    assert sorted(out.parent.rglob("*")) == before


def test_a_pickle_in_a_checkpoint_is_not_executed(tissue_file: Path, tmp_path: Path) -> None:
    mark, checkpoint = tmp_path / "executed", tmp_path / "run.partial.ckpt"
    torch.save({"isovi": {"about": {"seed": Payload(mark)}}}, checkpoint)
    code, text = said(["fit", str(tissue_file), "--out", str(tmp_path / "run"), "--resume"])
    assert code == 2 and "may execute code" in text
    assert not mark.exists() and not (tmp_path / "run").exists()
    torch.load(checkpoint, weights_only=False)
    assert mark.exists(), "the payload works"


def test_the_folder_itself_may_be_a_link(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    assert Run.read(tmp_path / "link").model.is_trained
