"""A saved model is data: what was saved comes back to the bit, and reading it executes nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from mudata import MuData
from safetensors.torch import load_file, save_file
from scvi.model import AUTOZI, SCANVI, SCVI, TOTALVI, LinearSCVI

from isovi import (
    AllPairs,
    Constraint,
    InputError,
    IsoSCVI,
    IsoVAE,
    Neighbors,
    OutputError,
    preserve_distances,
)
from isovi.model import folder as saved
from isovi.model.encoding import decode, encode
from isovi.model.pickled import read_pickled

NAMES = ["A.1", "__class__", ""]
COVARIATES = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["domain"],
    "continuous_covariate_keys": ["age"],
}


def odd(adata: AnnData) -> AnnData:
    """Data whose sections have names that are arbitrary text."""
    adata.obs["section"] = pd.Categorical(np.array(NAMES)[np.arange(adata.n_obs) % 3])
    return adata


@pytest.fixture(scope="module")
def model(make_tissue: Callable, quickly: Callable) -> Any:
    scvi.settings.seed = 0
    adata = odd(make_tissue())
    IsoSCVI.setup_anndata(adata, section_key="section", **COVARIATES)
    pairs = AllPairs() | Neighbors(4)
    return quickly(
        IsoSCVI(adata, n_latent=4, n_hidden=8, distortion=Constraint(0.3, per_section=True), pairs=pairs)
    )


@pytest.fixture(scope="module")
def stored(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder, save_anndata=True)
    return folder


@pytest.fixture(scope="module")
def pickled(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder, scvi_format=True, save_anndata=True)
    return folder


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(stored, tmp_path / "model"))


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpickling is an error, whoever tries it."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, never)


def assert_same(found: Any, expected: Any) -> None:
    """Weights, results, history and attributes are the same to the bit."""
    weights, others = found.module.state_dict(), expected.module.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) or weights[name].isnan().any() for name in others)
    assert np.array_equal(found.get_latent_representation(), expected.get_latent_representation())
    assert list(found.history) == list(expected.history)
    for name, table in expected.history.items():
        pd.testing.assert_frame_equal(found.history[name], table)
    for part in ("train_indices", "validation_indices", "test_indices"):
        assert np.array_equal(getattr(found, part), getattr(expected, part))
    assert str(found.training_outcome_) == str(expected.training_outcome_)
    assert (found.distortion, found.pairs) == (expected.distortion, expected.pairs)
    assert found.distance_scale == expected.distance_scale
    assert found.coordinate_units == expected.coordinate_units
    for part, cells in expected.seen_cells_.items():
        assert found.seen_cells_[part].dtype == np.uint64
        assert np.array_equal(found.seen_cells_[part], cells)


# ------------------------------------------------------------------ what was saved comes back


@pytest.mark.usefixtures("no_pickles")
def test_a_model_is_two_files_of_data_and_comes_back_to_the_bit(model: Any, stored: Path) -> None:
    assert {file.name for file in stored.iterdir()} == {"model.json", "model.safetensors", "adata.h5ad"}
    about = json.loads((stored / "model.json").read_text())
    assert (about["format"], about["schema"], about["class"]) == ("isovi-model", 1, "IsoSCVI")
    loaded = IsoSCVI.load(stored)
    assert_same(loaded, model)
    assert set(loaded.coordinate_units) == set(NAMES)


@pytest.mark.usefixtures("no_pickles")
def test_it_loads_with_given_data_and_without(model: Any, stored: Path, make_tissue: Callable) -> None:
    loaded = IsoSCVI.load(str(stored), adata=odd(make_tissue()))
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert IsoSCVI.load(stored, adata=False).adata is None


def test_training_continues_as_before(stored: Path, pickled: Path, quickly: Callable) -> None:
    latents = []
    for folder, trust in ((stored, False), (pickled, False), (pickled, True)):
        loaded = IsoSCVI.load(folder, trust=trust)
        scvi.settings.seed = 1
        quickly(loaded, max_epochs=2)
        latents.append(loaded.get_latent_representation())
    assert np.array_equal(latents[0], latents[1]) and np.array_equal(latents[0], latents[2])


def test_queries_map_onto_the_folder_as_onto_the_model(
    model: Any, stored: Path, pickled: Path, make_tissue: Callable, quickly: Callable, tmp_path: Path
) -> None:
    latents = []
    for reference in (model, stored, str(stored), pickled):
        query = odd(make_tissue(seed=1))
        query.obs["batch"] = "new"
        scvi.settings.seed = 1
        mapped = quickly(IsoSCVI.load_query_data(query, reference), max_epochs=1)
        latents.append(mapped.get_latent_representation())
    for latent in latents[1:]:
        assert np.array_equal(latent, latents[0])
    mapped.save(tmp_path / "query", save_anndata=True)
    again = IsoSCVI.load(tmp_path / "query")
    assert np.array_equal(again.get_latent_representation(), latents[0])


def test_arguments_of_the_network_come_back(make_tissue: Callable, quickly: Callable, tmp_path: Path) -> None:
    adata = make_tissue()
    IsoVAE.setup_anndata(adata)
    extra = {"activation_fn": torch.nn.SiLU}
    made = quickly(
        IsoVAE(adata, n_latent=3, n_hidden=8, distortion=None, extra_encoder_kwargs=extra), max_epochs=1
    )
    made.save(tmp_path / "model", prefix="v1_")
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"v1_model.json", "v1_model.safetensors"}
    loaded = IsoVAE.load(tmp_path / "model", adata, prefix="v1_")
    assert any(isinstance(part, torch.nn.SiLU) for part in loaded.module.modules())
    assert np.array_equal(loaded.get_latent_representation(), made.get_latent_representation())
    with pytest.raises(InputError, match="prefix"):
        IsoVAE.load(tmp_path / "model", adata)


def test_what_has_no_form_as_data_is_refused_and_can_be_pickled(tissue: AnnData, tmp_path: Path) -> None:
    IsoSCVI.setup_anndata(tissue)
    made = IsoSCVI(tissue, n_latent=3, n_hidden=8, extra_decoder_kwargs={"activation_fn": torch.nn.Identity})
    with pytest.raises(InputError, match=r"extra_decoder_kwargs.*the class Identity.*scvi_format=True"):
        made.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    made.save(tmp_path / "model", scvi_format=True)
    with pytest.raises(InputError, match=r"names torch.nn.modules.linear.Identity.*trust=True"):
        IsoSCVI.load(tmp_path / "model", tissue)
    assert IsoSCVI.load(tmp_path / "model", tissue, trust=True).module is not None


def test_best_checkpoints_of_scvi_tools_are_restored(
    tissue: AnnData, quickly: Callable, tmp_path: Path
) -> None:
    from scvi.train import SaveCheckpoint

    IsoSCVI.setup_anndata(tissue)
    made = IsoSCVI(tissue, n_latent=3, n_hidden=8)
    keeps = SaveCheckpoint(dirpath=str(tmp_path), monitor="elbo_validation", load_best_on_end=True)
    quickly(made, callbacks=[keeps], enable_checkpointing=True, check_val_every_n_epoch=1)
    best = Path(keeps.best_model_path)
    assert {file.name for file in best.iterdir()} == {"model.json", "model.safetensors"}
    assert IsoSCVI.load(best, tissue).module is not None


def test_registries_are_shown_without_unpickling(stored: Path, no_pickles: None, capsys: Any) -> None:  # noqa: ARG001
    assert IsoSCVI.load_registry(stored)["setup_args"]["section_key"] == "section"
    IsoSCVI.view_setup_args(stored)
    assert "section_key" in capsys.readouterr().out
    with pytest.raises(InputError, match="trust=True"):
        IsoSCVI.convert_legacy_save(str(stored), "elsewhere")


def test_scvi_tools_own_models_are_loaded_as_before(
    tissue: AnnData, quickly: Callable, tmp_path: Path
) -> None:
    SCVI.setup_anndata(tissue)
    plain = quickly(SCVI(tissue, n_latent=3, n_hidden=8), max_epochs=1)
    plain.save(str(tmp_path / "plain"))
    assert SCVI.load(str(tmp_path / "plain"), tissue).is_trained
    assert not hasattr(preserve_distances(AUTOZI), "load_query_data") or hasattr(AUTOZI, "load_query_data")


# ------------------------------------------------------------------ folders


def test_a_folder_is_kept_unless_it_is_to_be_overwritten(model: Any, folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="already exists"):
        model.save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "notes.txt").write_text("mine")
    model.save(folder, overwrite=True, scvi_format=True)
    assert {file.name for file in folder.iterdir()} == {"model.pt", "adata.h5ad", "notes.txt"}
    model.save(folder, overwrite=True)
    names = {"model.json", "model.safetensors", "adata.h5ad", "notes.txt"}
    assert {file.name for file in folder.iterdir()} == names
    assert_same(IsoSCVI.load(folder), model)
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_a_folder_appears_whole_or_not_at_all(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        model.save(tmp_path / "model", save_anndata=True)
    assert not list(tmp_path.iterdir())


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any], tensors: Any = None) -> None:
    """Change what a folder says, with checksums that fit: made by somebody, not damaged."""
    file = folder / "model.json"
    about = json.loads(file.read_text())
    change(about["content"])
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
        about["checksums"]["tensors"] = saved.io.sha256(folder / "model.safetensors")
    about["checksums"]["content"] = saved._digest(about["content"])
    file.write_text(json.dumps(about))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no files": lambda folder: [file.unlink() for file in folder.iterdir()],
    "empty json": lambda folder: (folder / "model.json").write_text(""),
    "a list": lambda folder: (folder / "model.json").write_text("[]"),
    "null": lambda folder: (folder / "model.json").write_text("null"),
    "bytes": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
    "another schema": lambda folder: (folder / "model.json").write_text(
        '{"format":"isovi-model","schema":9}'
    ),
    "nothing else": lambda folder: (folder / "model.json").write_text('{"format":"isovi-model","schema":1}'),
    "deep": lambda folder: (folder / "model.json").write_text("[" * 100_000),
    "half json": lambda folder: os.truncate(folder / "model.json", 2000),
    "half weights": lambda folder: os.truncate(folder / "model.safetensors", 2000),
    "empty weights": lambda folder: os.truncate(folder / "model.safetensors", 0),
    "a bit of the json": lambda folder: flip(folder / "model.json", 5000),
    "a bit of the weights": lambda folder: flip(folder / "model.safetensors", -9),
    "no attributes": lambda folder: rewritten(folder, lambda content: content.update(attributes={})),
    "a list of attributes": lambda folder: rewritten(folder, lambda content: content.update(attributes=[])),
    "__class__": lambda folder: rewritten(folder, lambda content: content["attributes"].update(__class__=1)),
    "a method": lambda folder: rewritten(folder, lambda content: content["attributes"].update(train=1)),
    "an unknown tag": lambda folder: rewritten(
        folder, lambda content: content.update(state={"$": "os.system"})
    ),
    "another class": lambda folder: rewritten(
        folder, lambda content: content["attributes"].update(x_={"$": "class", "name": "os.system"})
    ),
    "another record": lambda folder: rewritten(
        folder, lambda content: content["attributes"].update(x_={"$": "record", "value": {"kind": "Popen"}})
    ),
    "a missing array": lambda folder: rewritten(
        folder, lambda content: content["attributes"].update(x_={"$": "array", "name": "array/999"})
    ),
    "10^12 entries": lambda folder: rewritten(
        folder,
        lambda content: content["attributes"].update(
            x_={"$": "list", "dtype": "O", "shape": [10**12], "values": []}
        ),
    ),
    "10^12 units": lambda folder: rewritten(
        folder, lambda content: arguments_of(content).update(n_hidden=10**12)
    ),
    "another dimension": lambda folder: rewritten(
        folder, lambda content: arguments_of(content).update(n_latent=5)
    ),
    "no weight": lambda folder: rewritten(
        folder,
        lambda _: None,
        {n: t for n, t in load_file(folder / "model.safetensors").items() if "array" in n},
    ),
    "weights that claim 10^12 entries": lambda folder: (
        (folder / "model.safetensors").write_bytes(
            bomb := len(CLAIM).to_bytes(8, "little") + CLAIM + bytes(16)
        )
        and bomb
        and resum(folder)
    ),
}
CLAIM = b'{"array/0":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'


def arguments_of(content: dict[str, Any]) -> dict[str, Any]:
    return content["attributes"]["init_params_"]["kwargs"]["kwargs"]


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def resum(folder: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    about["checksums"]["tensors"] = saved.io.sha256(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(about))


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.usefixtures("no_pickles")
def test_what_is_damaged_or_made_up_is_refused(folder: Path, name: str) -> None:
    DAMAGES[name](folder)
    with pytest.raises(InputError):
        IsoSCVI.load(folder, adata=False)


def test_links_out_of_the_folder_are_refused(folder: Path, model: Any) -> None:
    for name in ("model.safetensors", "model.json", "adata.h5ad"):
        outside = folder.parent / name
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)
        with pytest.raises(InputError, match=r"is a link to.*trust=True"):
            IsoSCVI.load(folder)
        assert_same(IsoSCVI.load(folder, trust=True), model)
        (folder / name).unlink()
        outside.rename(folder / name)
    (folder.parent / "link").symlink_to(folder)
    assert_same(IsoSCVI.load(folder.parent / "link"), model)


# ------------------------------------------------------------------ pickles


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def malicious(folder: Path, mark: Path, where: str) -> None:
    """Put a payload into a saved model.pt."""
    content = torch.load(folder / "model.pt", weights_only=False)
    if where == "weights":
        content["model_state_dict"]["payload"] = Payload(mark)
    elif where == "array":
        content["var_names"] = np.array([Payload(mark)], dtype=object)
    else:
        content["attr_dict"]["registry_"]["payload"] = Payload(mark)
    torch.save(content, folder / "model.pt")


def test_a_pickle_of_plain_data_is_read_without_trust(model: Any, pickled: Path) -> None:
    assert {file.name for file in pickled.iterdir()} == {"model.pt", "adata.h5ad"}
    assert_same(IsoSCVI.load(pickled), model)
    assert_same(IsoSCVI.load(pickled, trust=True), model)


@pytest.mark.parametrize("where", ["weights", "array", "registry"])
def test_a_pickle_is_not_executed(pickled: Path, tmp_path: Path, where: str, make_tissue: Callable) -> None:
    folder, mark = Path(shutil.copytree(pickled, tmp_path / "model")), tmp_path / "executed"
    malicious(folder, mark, where)
    query = odd(make_tissue(seed=1))
    for load in (
        lambda: IsoSCVI.load(folder),
        lambda: IsoSCVI.load_query_data(query, folder),
        lambda: IsoSCVI.load_query_data(query, str(folder)),
        lambda: IsoSCVI.load_registry(folder),
        lambda: IsoSCVI.view_setup_args(folder),
        lambda: preserve_distances(SCANVI).load(folder),
    ):
        with pytest.raises(InputError, match=r"may execute code.*trust=True"):
            load()
        assert not mark.exists()
    torch.load(folder / "model.pt", weights_only=False)
    assert mark.exists(), "the payload works"


def test_a_trusted_pickle_is_unpickled(pickled: Path, tmp_path: Path) -> None:
    folder, mark = Path(shutil.copytree(pickled, tmp_path / "model")), tmp_path / "executed"
    malicious(folder, mark, "registry")
    IsoSCVI.load(folder, adata=False, trust=True)
    assert mark.exists()


@pytest.mark.usefixtures("no_pickles")
def test_a_pickle_beside_a_model_of_ours_is_not_looked_at(folder: Path, pickled: Path) -> None:
    shutil.copy(pickled / "model.pt", folder)
    assert IsoSCVI.load(folder, adata=False).is_trained


def test_stand_ins_call_nothing_that_a_pickle_names(tmp_path: Path) -> None:
    """Types whose state decides what is a pointer, and shapes that claim 10^12 entries."""

    class Crafted:
        def __reduce__(self) -> Any:
            return np.ndarray, ((10**12,),)

    for content in (Crafted(), np.zeros(2, dtype=[("a", "f4")]), np.zeros(2, dtype="M8[s]"), object()):
        torch.save(
            {"attr_dict": {"x_": content}, "var_names": [], "model_state_dict": {}}, tmp_path / "model.pt"
        )
        with pytest.raises(InputError):
            read_pickled(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}.", b"not a pickle" * 10])
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt"):
        IsoSCVI.load(tmp_path, adata=False)


def test_names_in_an_archive_lead_nowhere(pickled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pickled, tmp_path / "deep" / "model"))
    with zipfile.ZipFile(folder / "model.pt", "a") as archive:
        for name in ("../../slipped", "/slipped", "model/../../slipped"):
            archive.writestr(name, "content")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) if not loads(folder) else pytest.MonkeyPatch.context():
        IsoSCVI.load(folder, adata=False)
    assert sorted(tmp_path.rglob("*")) == before


def loads(folder: Path) -> bool:
    """Whether torch reads the archive at all."""
    try:
        torch.load(folder / "model.pt", weights_only=False)
    except RuntimeError:
        return False
    return True


# ------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "value",
    [
        {"": 1, "a.b": [1, (2, "x")], "$": {"$": "os.system"}},
        {1: "a", (2, "b"): None},
        [float("nan"), float("inf"), -0.0, 1e-320, 2**80],
        {"a", "b"},
        np.arange(6, dtype=np.int16).reshape(2, 3).T,
        np.array([[1, np.nan]], dtype=">f4"),
        np.array(["a", "", None, 1.5], dtype=object),
        np.array(["a", "bc"]),
        np.empty((0, 3)),
        torch.tensor(3, dtype=torch.bfloat16),
        pd.DataFrame(
            {"a": [1.5, np.nan], "b": pd.Categorical(["x", "y"])}, index=pd.Index([3, 4], name="epoch")
        ),
        pd.DataFrame({"a": [1.5, 2]}, dtype=object),
        pd.DataFrame(np.ones((2, 2)), columns=["a", "a"]),
        pd.Series(["a", None], dtype="string"),
        pd.Index(["a", "b"], name="n", dtype=object),
        Constraint(0.2, per_section=True),
        AllPairs() | Neighbors(3),
        torch.nn.GELU,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_from_json(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(value, tensors), allow_nan=False)
    found = decode(json.loads(text), tensors)
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        assert found.dtype.kind == value.dtype.kind
        np.testing.assert_array_equal(found, value)
    elif isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(found, value)
    elif isinstance(value, pd.Series | pd.Index):
        assert found.equals(value) and found.name == value.name and found.dtype == value.dtype
    else:
        assert repr(found) == repr(value) or found == value


def test_numbers_of_numpy_become_numbers(no_pickles: None) -> None:  # noqa: ARG001
    given = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.str_("x"),
        "e": np.longdouble(2),
    }
    assert encode(given, {}) == {"a": 0.5, "b": 3, "c": True, "d": "x", "e": 2.0}


@pytest.mark.parametrize("value", [print, object(), int, SCVI, np.array([1j]), b"bytes", Path()])
def test_other_values_are_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^x\[0\]"):
        encode([value], {}, "x")


def test_the_linear_backbone_too(tissue: AnnData, quickly: Callable, tmp_path: Path) -> None:
    cls = preserve_distances(LinearSCVI)
    cls.setup_anndata(tissue)
    made = quickly(cls(tissue, n_latent=3, n_hidden=8), max_epochs=1)
    made.save(tmp_path / "model", save_anndata=True)
    assert_same(cls.load(tmp_path / "model"), made)
    with pytest.raises(ValueError, match="different class"):
        IsoSCVI.load(tmp_path / "model")


# ------------------------------------------------------------------ other data


def test_minified_data_and_its_model_come_back(tissue: AnnData, quickly: Callable, tmp_path: Path) -> None:
    IsoSCVI.setup_anndata(tissue, section_key="section")
    made = quickly(IsoSCVI(tissue, n_latent=3, n_hidden=8), max_epochs=1)
    mean, variance = made.get_latent_representation(return_dist=True)
    tissue.obsm["X_latent_qzm"], tissue.obsm["X_latent_qzv"] = mean, variance
    made.minify_adata()
    for name, scvi_format in (("data", False), ("pickle", True)):
        made.save(tmp_path / name, save_anndata=True, scvi_format=scvi_format)
        loaded = IsoSCVI.load(tmp_path / name)
        assert loaded.minified_data_type == made.minified_data_type is not None
        assert np.array_equal(loaded.get_latent_representation(), mean)


def test_models_of_several_modalities_come_back(tissue: AnnData, quickly: Callable, tmp_path: Path) -> None:
    proteins = np.random.default_rng(0).poisson(5, (tissue.n_obs, 4)).astype(np.float32)
    data = MuData({"rna": tissue, "protein": AnnData(proteins, obs=tissue.obs[[]].copy())})
    cls = preserve_distances(TOTALVI)
    modalities = {"rna_layer": "rna", "protein_layer": "protein"}
    cls.setup_mudata(data, rna_layer=None, protein_layer=None, modalities=modalities)
    made = cls(data, n_latent=3, distortion=None, empirical_protein_background_prior=False)
    quickly(made, max_epochs=1)
    for name, scvi_format in (("data", False), ("pickle", True)):
        made.save(tmp_path / name, save_anndata=True, scvi_format=scvi_format)
        assert (tmp_path / name / "mdata.h5mu").is_file()
        loaded = cls.load(tmp_path / name)
        assert np.array_equal(loaded.get_latent_representation(), made.get_latent_representation())


def test_queries_of_labelled_models_come_back(tissue: AnnData, quickly: Callable, tmp_path: Path) -> None:
    cls = preserve_distances(SCANVI)
    setup = {"labels_key": "label", "unlabeled_category": "unknown"}
    cls.setup_anndata(tissue, section_key="section", **setup)
    quickly(cls(tissue, n_latent=3, n_hidden=8), max_epochs=1).save(tmp_path / "model")
    query = quickly(cls.load_query_data(tissue.copy(), tmp_path / "model"), max_epochs=1)
    query.save(tmp_path / "query")
    assert np.array_equal(cls.load(tmp_path / "query", query.adata).predict(), query.predict())


# ------------------------------------------------------------------ models of scvi-tools before 0.15


class Calls:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("called",)


def legacy(model: Any, folder: Path, **attributes: Any) -> Path:
    """The three files of a model as scvi-tools wrote them before 0.15."""
    folder.mkdir()
    torch.save(model.module.state_dict(), folder / "model_params.pt")
    np.savetxt(folder / "var_names.csv", model.adata.var_names.to_numpy(), fmt="%s")
    kept = {name: value for name, value in vars(model).items() if name[0] != "_" and name[-1] == "_"}
    (folder / "attr.pkl").write_bytes(pickle.dumps({**kept, **attributes}))
    return folder


def test_a_model_of_old_is_converted_to_data(
    tissue: AnnData, quickly: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    IsoSCVI.setup_anndata(tissue)
    made = quickly(IsoSCVI(tissue, n_latent=3, n_hidden=8), max_epochs=1)
    old = legacy(made, tmp_path / "old")
    monkeypatch.setattr(pd, "read_pickle", lambda *_: pytest.fail("it was unpickled"))
    IsoSCVI.convert_legacy_save(old, tmp_path / "new")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"model.json", "model.safetensors"}
    loaded = IsoSCVI.load(tmp_path / "new", tissue)
    np.testing.assert_array_equal(loaded.get_latent_representation(), made.get_latent_representation())


def test_a_model_of_old_that_would_run_code_is_refused(
    tissue: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    IsoSCVI.setup_anndata(tissue)
    old = legacy(IsoSCVI(tissue, n_latent=3, n_hidden=8), tmp_path / "old", harm_=Calls())
    with pytest.raises(InputError, match=r"may execute code as it is read: it names posix\.mkdir"):
        IsoSCVI.convert_legacy_save(old, tmp_path / "new")
    assert not (tmp_path / "called").exists() and not (tmp_path / "new").exists()
    pickle.loads((old / "attr.pkl").read_bytes())  # the payload is a real one
    assert (tmp_path / "called").exists()
