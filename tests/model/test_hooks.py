"""Private names of scvi-tools and Lightning: each is still there, does its job, and is used in one place."""

from __future__ import annotations

import ast
import inspect
import logging
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.distributions import ZeroInflatedNegativeBinomial
from scvi.model import SCVI, TOTALVI
from scvi.module import VAE
from scvi.train import Trainer, TrainingPlan
from torch.distributions import Normal

import isovi
from isovi import IsoSCVI
from isovi.model import hooks
from isovi.model.folder import ADATA, MDATA, PICKLE

SMALL = {"n_latent": 3, "n_hidden": 8}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (SCVI, hooks.MODULE),
        (SCVI, hooks.PLAN),
        (SCVI, hooks.SPLITTER),
        (SCVI, "_make_data_loader"),
        (SCVI, "_validate_anndata"),
        (SCVI, "_get_most_recent_anndata_manager"),
        (VAE, hooks.INFERENCE_INPUT),
        (VAE, hooks.GENERATIVE_INPUT),
    ],
)
def test_scvi_tools_still_has(owner: type, name: str) -> None:
    assert hasattr(owner, name)


@pytest.mark.parametrize("name", ["epoch_progress.reset_on_restart", "restarting", "load_state_dict"])
def test_the_fit_loop_of_lightning_still_has(name: str) -> None:
    found: Any = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop
    for part in name.split("."):
        found = getattr(found, part)


# ------------------------------------------------------------------ what each of them does


@pytest.fixture
def plain(tissue: AnnData) -> AnnData:
    SCVI.setup_anndata(tissue, batch_key="batch")
    return tissue


def test_module_cls_builds_the_network(plain: AnnData) -> None:
    class Other(VAE):
        pass

    @hooks.builds(Other)
    class Model(SCVI):
        pass

    assert hooks.module_of(SCVI) is VAE
    assert hooks.module_of(Model) is Other
    assert hooks.module_of(int) is None
    Model.setup_anndata(plain)
    assert type(Model(plain, **SMALL).module) is Other
    assert type(SCVI(plain, **SMALL).module) is VAE


def test_training_plan_cls_and_data_splitter_cls_of_an_instance_train_it(
    plain: AnnData, quickly: Callable
) -> None:
    made: list[type] = []

    class Plan(TrainingPlan):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(Plan)
            super().__init__(*args, **kwargs)

    class Splitter(DataSplitter):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(Splitter)
            super().__init__(*args, **kwargs)

    model = SCVI(plain, **SMALL)
    assert hooks.training_of(SCVI) == (TrainingPlan, DataSplitter)
    with hooks.training_by(model, hooks.Training(Plan, Splitter)):
        quickly(model, max_epochs=1)
    assert made == [Splitter, Plan]
    quickly(model, max_epochs=1)
    assert made == [Splitter, Plan], "only for a while"
    with pytest.raises(KeyError), hooks.training_by(model, hooks.Training(Plan, Splitter)):
        raise KeyError
    assert not {hooks.PLAN, hooks.SPLITTER} & set(vars(model)), "whatever happened"


def test_make_data_loader_makes_every_loader_after_training(plain: AnnData, quickly: Callable) -> None:
    made: list[int] = []

    class Loader(AnnDataLoader):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(1)
            super().__init__(*args, **kwargs)

    class Model(hooks.ChoosesLoader, SCVI):
        loader: type | None = None

        def loader_of(self, _: AnnData) -> type | None:
            return self.loader

    Model.setup_anndata(plain)
    model = quickly(Model(plain, **SMALL), max_epochs=1)
    own = model.get_latent_representation()
    assert not made
    model.loader = Loader
    for n_made, look in enumerate((model.get_latent_representation, model.get_normalized_expression), 1):
        look()
        assert len(made) == n_made
    assert np.array_equal(model.get_latent_representation(), own)


def test_validate_anndata_takes_all_data_that_a_model_does_not_know(
    plain: AnnData, quickly: Callable
) -> None:
    seen: list[AnnData] = []

    class Model(hooks.TakesOtherData, SCVI):
        def other_data(self, adata: AnnData) -> AnnData:
            seen.append(adata)
            return adata

    Model.setup_anndata(plain)
    model = quickly(Model(plain, **SMALL), max_epochs=1)
    model.get_latent_representation(plain)
    assert not seen, "the model's own data"
    for n_seen, look in enumerate((model.get_latent_representation, model.get_normalized_expression), 1):
        other = plain.copy()
        del other.uns["_scvi_uuid"]
        look(other)
        assert len(seen) == n_seen and seen[-1] is other


def test_get_most_recent_anndata_manager_is_that_of_the_last_setup(plain: AnnData) -> None:
    first = hooks.manager_of(SCVI, plain)
    SCVI.setup_anndata(plain)
    last = hooks.manager_of(SCVI, plain)
    assert last is not first and last.adata is plain
    assert SCVI(plain, **SMALL).adata_manager is last
    with pytest.raises(ValueError, match="setup_anndata"):
        hooks.manager_of(TOTALVI, plain)


def test_get_inference_input_and_get_generative_input_are_asked_in_every_pass(plain: AnnData) -> None:
    asked: list[str] = []

    class Module(VAE):
        pass

    for name in (hooks.INFERENCE_INPUT, hooks.GENERATIVE_INPUT):

        def wrapped(self: Any, *args: Any, own: str = name, **kwargs: Any) -> Any:
            asked.append(own)
            return getattr(VAE, own)(self, *args, **kwargs)

        setattr(Module, name, wrapped)
    module = Module(plain.n_vars, n_batch=2, n_labels=1, **SMALL)
    module(next(iter(AnnDataLoader(hooks.manager_of(SCVI, plain)))))
    assert asked == [hooks.INFERENCE_INPUT, hooks.GENERATIVE_INPUT]


def test_scvi_tools_goes_by_the_name_of_the_class_for_models_without_data() -> None:
    """Once a subclass can be made without data, ``under_name_of_backbone`` can go."""

    class Renamed(SCVI):
        pass

    with pytest.raises(ValueError, match="adata or registry"):
        Renamed(adata=None)
    assert SCVI(adata=None).module is None
    made = Renamed.__new__(Renamed)
    with hooks.under_name_of_backbone(made):
        assert type(made).__name__ == "SCVI" and isinstance(made, Renamed)
        made.__init__(adata=None)
    assert type(made) is Renamed and made.module is None
    with pytest.raises(KeyError), hooks.under_name_of_backbone(made):
        raise KeyError
    assert type(made) is Renamed, "whatever happened"


@pytest.mark.parametrize("name", hooks.READERS)
def test_load_saved_files_is_where_scvi_tools_reads_a_model(name: str) -> None:
    read = getattr(import_module(name), hooks.FILES)
    assert list(inspect.signature(read).parameters)[:4] == [
        "dir_path",
        "load_adata",
        "prefix",
        "map_location",
    ]


def test_no_other_module_of_scvi_tools_reads_models() -> None:
    """But for those of its hub and of models that no distances can be kept in."""
    others = ("hub/_metadata.py", "model/base/_save_load.py", "external/")
    root = Path(scvi.__file__).parent
    found = {
        f"scvi.{file.relative_to(root).with_suffix('').as_posix().replace('/', '.')}"
        for file in root.rglob("*.py")
        if re.search(rf"\b{hooks.FILES}\(|\btorch\.load\(", file.read_text())
        and not file.relative_to(root).as_posix().startswith(others)
    }
    assert found == set(hooks.READERS)


def test_load_saved_files_is_replaced_for_a_while(plain: AnnData, quickly: Callable, tmp_path: Path) -> None:
    model = quickly(SCVI(plain, **SMALL), max_epochs=1)
    model.save(str(tmp_path / "model"))
    own = [getattr(import_module(name), hooks.FILES) for name in hooks.READERS]
    asked: list[tuple[Any, ...]] = []

    def passes(*args: Any) -> None:
        asked.append(args[:3])

    with hooks.files_read_by(passes), hooks.files_read_by(passes):
        SCVI.load(str(tmp_path / "model"), plain)
        SCVI.load_query_data(plain.copy(), str(tmp_path / "model"))
    assert asked[::2] == [(str(tmp_path / "model"), False, None)] * 2
    assert [getattr(import_module(name), hooks.FILES) for name in hooks.READERS] == own
    with pytest.raises(KeyError), hooks.files_read_by(passes):
        raise KeyError
    assert [getattr(import_module(name), hooks.FILES) for name in hooks.READERS] == own, "whatever happened"


def test_names_of_files_are_those_of_scvi_tools() -> None:
    keys = import_module("scvi.model.base._constants").SAVE_KEYS
    assert (keys.MODEL_FNAME, keys.ADATA_FNAME, keys.MDATA_FNAME) == (PICKLE, ADATA, MDATA)
    found = (keys.ATTR_DICT_KEY, keys.VAR_NAMES_KEY, keys.MODEL_STATE_DICT_KEY)
    assert found == ("attr_dict", "var_names", "model_state_dict")


def test_early_stopping_is_said_to_be_disabled_in_several_processes() -> None:
    with pytest.warns(UserWarning, match=hooks.STOPPING_DISABLED):
        Trainer(accelerator="cpu", devices=1, strategy="ddp", logger=False)


def test_view_anndata_setup_finds_rich_pretty() -> None:
    script = """
from isovi import IsoSCVI
from isovi.simulate import simulate
adata = simulate("layers", n_obs=60, n_genes=20, seed=0)
IsoSCVI.setup_anndata(adata)
IsoSCVI(adata, n_latent=3).view_anndata_setup()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "spatial_key" in done.stdout


# ------------------------------------------------------------------ one place

FOLDERS = (
    *(Path(scvi.__file__).parent / part for part in ("data", "dataloaders", "model", "module", "train")),
    Path(lightning.__file__).parent / "pytorch" / "core",  # modules and datamodules, which ours derive from
)
THEIRS = re.compile(  # methods, attributes, class variables
    r"\bdef (_[a-z]\w*)|\b(?:self|cls|model)\.(_[a-z]\w*)|^    (_[a-z]\w*)(?:: [^=]+)? =", re.MULTILINE
)


def private_names_of_others() -> set[str]:
    sources = (file.read_text() for folder in FOLDERS for file in folder.rglob("*.py"))
    return {name for source in sources for found in THEIRS.findall(source) for name in found if name}


def names_in(file: Path) -> set[str]:
    """Attributes, methods, class variables and words in quotation marks of a module."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for part in (part for node in nodes if isinstance(node, ast.ClassDef) for part in node.body):
        names |= {part.name} if isinstance(part, ast.FunctionDef) else set()
        stored = (node for node in ast.walk(part) if isinstance(node, ast.Name))
        names |= {node.id for node in stored if isinstance(node.ctx, ast.Store)}
    return names


def test_no_other_module_touches_a_private_name_of_scvi_tools_or_lightning() -> None:
    theirs = private_names_of_others() - {"_version"}  # a tensor's, which is torch's
    assert {hooks.MODULE, hooks.PLAN, hooks.SPLITTER, "_make_data_loader"} <= theirs
    folder = Path(isovi.__file__).parent
    files = [file for part in ("data", "model", "tl") for file in (folder / part).rglob("*.py")]
    touched = {
        f"{file.relative_to(folder)}: {name}"
        for file in files
        if file != Path(hooks.__file__)
        for name in names_in(file) & theirs
    }
    assert not touched


def test_validate_args_of_distributions_is_off_for_a_while() -> None:
    wrong = torch.tensor(math.nan), torch.tensor(1.0)
    with hooks.unchecked_distributions():
        assert math.isnan(Normal(*wrong).mean)
    with pytest.raises(ValueError, match="constraint"):
        Normal(*wrong)


def test_validate_sample_is_what_looks_at_counts() -> None:
    class Unchecked(hooks.UncheckedSample, ZeroInflatedNegativeBinomial):
        pass

    given = {"mu": torch.ones(1), "theta": torch.ones(1), "zi_logits": torch.zeros(1)}
    with pytest.warns(UserWarning, match="within the support"):
        ZeroInflatedNegativeBinomial(**given).log_prob(torch.tensor([-1.0]))
    with warnings.catch_warnings(action="error"):
        Unchecked(**given).log_prob(torch.tensor([-1.0]))


def test_a_training_shows_no_warning_and_no_advertisement(
    tissue: AnnData, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    before = [list(logging.getLogger(name).filters) for name in hooks.LOGGERS]
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, n_latent=4, n_hidden=16)
    recwarn.clear()
    with caplog.at_level(logging.INFO):
        model.train(8, early_stopping=True, early_stopping_patience=1, early_stopping_min_delta=1e9)
    assert [str(one.message) for one in recwarn] == []
    assert not [one for one in caplog.messages if one.startswith(hooks.ADVERTISEMENT)]
    assert "did not improve" not in capsys.readouterr().out
    assert len(model.history_["elbo_train"]) < 8  # it stopped early, which is what is not said twice
    assert [list(logging.getLogger(name).filters) for name in hooks.LOGGERS] == before
