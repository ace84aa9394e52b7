"""The only place that touches private names of scvi-tools, Lightning and torch's distributions.

Each entry says what it is needed for; where a public name does, it is used instead. All were seen in
scvi-tools 1.4.2 and 1.5.1 and in Lightning 2.6.6. ``tests/model/test_hooks.py`` has a test for each, which
fails by its name when a new version drops it, and one that no other module reaches for such a name.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import lightning.pytorch as pl
import rich.pretty  # noqa: F401  # scvi-tools 1.4 uses it in view_anndata_setup without importing it
from anndata import AnnData
from lightning.fabric.utilities.warnings import PossibleUserWarning
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.train import LoudEarlyStopping, TrainRunner
from torch.distributions import Distribution

Class = TypeVar("Class", bound=type)

# Methods of a module that gather what it infers and generates from; developers of models write them.
INFERENCE_INPUT = "_get_inference_input"
GENERATIVE_INPUT = "_get_generative_input"

# Attribute of a model class: the class by which it builds its network.
MODULE = "_module_cls"

# Attributes of a model class: the Lightning module around the network; what splits data and makes loaders.
PLAN, SPLITTER = "_training_plan_cls", "_data_splitter_cls"

# scvi-tools' Trainer warns of this whenever several processes train, with early stopping or without.
STOPPING_DISABLED = "early_stopping was automatically disabled"


# Attribute of torch's distributions: whether they look at their parameters, for which a device is waited for.
CHECKED = "_validate_args"

# How an advertisement of Lightning begins, and the loggers that may show it.
ADVERTISEMENT = "💡 Tip"
LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")

# The function that reads a saved model, and the modules that have it under that name.
FILES = "_load_saved_files"
READERS = ("scvi.model.base._base_model", "scvi.model.base._archesmixin", "scvi.train._callbacks")


# ---------------------------------------------------------------------------- saved models

Reads = Callable[..., "tuple[Any, ...] | None"]
_readers: list[Reads] = []
_own: dict[str, Callable[..., Any]] = {}  # scvi-tools' function, while another is in its place
_changing = threading.Lock()


@contextmanager
def files_read_by(read: Reads) -> Iterator[None]:
    """Have scvi-tools read saved models by another function for a while; it knows only its own pickle.

    Parameters
    ----------
    read
        Called with the folder, whether data is to be read, the prefix of file names, and the device; it
        returns attributes, names of features, weights, and data, or ``None`` for what scvi-tools is to read.
    """
    with _changing:
        _readers.append(read)
        if not _own:
            for name in READERS:
                _own[name] = getattr(import_module(name), FILES)
                setattr(import_module(name), FILES, _read_files)
    try:
        yield
    finally:
        with _changing:
            _readers.remove(read)
            if not _readers:
                for name in READERS:
                    setattr(import_module(name), FILES, _own.pop(name))


def _read_files(
    dir_path: str, load_adata: bool, prefix: str | None = None, map_location: Any = None, **more: Any
) -> tuple[Any, ...]:
    for read in _readers:
        if (found := read(dir_path, load_adata, prefix, map_location)) is not None:
            return found
    return _own[READERS[0]](dir_path, load_adata, prefix, map_location, **more)


# ---------------------------------------------------------------------------- classes


def module_of(model: type) -> type | None:
    """The class by which a model class builds its network; ``None`` for what is no such class."""
    return getattr(model, MODULE, None)


def builds(module: type) -> Callable[[Class], Class]:
    """Decorator of a model class that has it build its network by another class."""

    def decorated(model: Class) -> Class:
        setattr(model, MODULE, module)
        return model

    return decorated


class Training(NamedTuple):
    """Classes by which a model is trained.

    Attributes
    ----------
    plan
        Lightning module around the network.
    splitter
        Splits the data and makes the loaders.
    """

    plan: type
    splitter: type


def training_of(model: type) -> Training:
    """The classes by which a model class trains."""
    return Training(getattr(model, PLAN), getattr(model, SPLITTER))


@contextmanager
def training_by(model: Any, training: Training) -> Iterator[None]:
    """Have one model train by other classes for a while; ``train`` has no argument for them."""
    vars(model).update({PLAN: training.plan, SPLITTER: training.splitter})
    try:
        yield
    finally:
        for name in (PLAN, SPLITTER):
            vars(model).pop(name, None)


class ChoosesLoader:
    """Mixin over a model class: the loader for inference is chosen by :meth:`loader_of`."""

    def loader_of(self, adata: AnnData | MuData) -> type | None:
        """Class of the loader for some data; ``None`` for scvi-tools' own."""
        raise NotImplementedError

    def _make_data_loader(self, adata: AnnData | MuData, *args: Any, **kwargs: Any) -> Any:
        """Make the loader; it is called by all that looks at data after training."""
        loader = self.loader_of(adata)
        chosen = {} if loader is None else {"data_loader_class": loader}
        return super()._make_data_loader(adata, *args, **{**kwargs, **chosen})  # type: ignore[misc]


class TakesOtherData:
    """Mixin over a model class: data that it was not made of passes :meth:`other_data` first."""

    def other_data(self, adata: AnnData) -> AnnData:
        """Data to use in place of some that the model does not know."""
        raise NotImplementedError

    def _validate_anndata(self, adata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Register data if need be; it is called by all that takes data after training."""
        if isinstance(adata, AnnData) and self.get_anndata_manager(adata) is None:  # type: ignore[attr-defined]
            adata = self.other_data(adata)
        return super()._validate_anndata(adata, *args, **kwargs)  # type: ignore[misc]


# ---------------------------------------------------------------------------- instances


def manager_of(model: Any, adata: AnnData) -> AnnDataManager:
    """The manager that a model class's ``setup_anndata`` made last, before there is a model.

    Raises
    ------
    ValueError
        If the data was not set up with this class.
    """
    return model._get_most_recent_anndata_manager(adata, required=True)  # noqa: SLF001  # no public way


@contextmanager
def under_name_of_backbone(model: Any) -> Iterator[None]:
    """For the time of its construction the model has the class name of its backbone.

    scvi-tools goes by that name to tell which models can be made without data.
    """
    own = type(model)
    name = next(cls.__name__ for cls in own.__mro__ if cls.__module__.startswith("scvi."))
    model.__class__ = type(name, (own,), {})
    try:
        yield
    finally:
        model.__class__ = own


def go_on_between_epochs(trainer: pl.Trainer, loops: dict[str, Any]) -> None:
    """Set a trainer's progress to after a finished epoch.

    Lightning takes a checkpoint that was written as an epoch began for one from within that epoch.

    Parameters
    ----------
    trainer
        About to train.
    loops
        State of the loops in a checkpoint of Lightning.
    """
    loop = trainer.fit_loop
    loop.load_state_dict(loops["fit_loop"])
    loop.epoch_progress.reset_on_restart()  # the next epoch had been counted as begun
    loop.restarting = False  # between two epochs there is nothing to finish
    if hasattr(loop, "on_iteration_done"):  # Lightning 2.5 and later
        loop.on_iteration_done()


@contextmanager
def exceptions_as_they_are() -> Iterator[None]:
    """Have scvi-tools and Lightning pass on what stops a training, without a word of their own.

    scvi-tools prints that a NameError was raised, whatever it was; Lightning makes an exit of Ctrl-C.

    Raises
    ------
    KeyboardInterrupt
        At Ctrl-C.
    """
    names = vars(sys.modules[TrainRunner.__module__])
    names["print"] = lambda *_: None
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    finally:
        del names["print"]


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Have distributions take their parameters as they are; torch has no public way to ask what it was."""
    before = getattr(Distribution, CHECKED)
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


class UncheckedSample:
    """Mixin over a distribution: counts are looked at when a model is made, not in each step."""

    def _validate_sample(self, value: Any) -> None:
        """Take the sample as it is; zero inflation looks at it whatever is asked."""


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(ADVERTISEMENT)


@contextmanager
def quiet_training() -> Iterator[None]:
    """Keep from a training what nobody asked for; warnings of isoVI, errors and the user's logging stay.

    That is an advertisement of Lightning, its advice on log intervals and loader workers, its own use of a
    deprecated function, and scvi-tools' line on why it stopped, which the summary of the training says.
    """
    names = vars(sys.modules[LoudEarlyStopping.__module__])
    names["print"] = lambda *_: None
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_no_advertisement)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
            yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(_is_no_advertisement)
        names.pop("print", None)
