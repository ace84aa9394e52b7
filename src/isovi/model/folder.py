"""A saved model: weights as safetensors, everything else as JSON. Reading it executes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mudata
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from isovi.data import io
from isovi.data.readers.annotated import read_stored
from isovi.errors import InputError, OutputError
from isovi.model.encoding import Tensors, decode, encode
from isovi.model.pickled import read_pickled

SCHEMA = 1
FORMAT = "isovi-model"
ABOUT, WEIGHTS = "model.json", "model.safetensors"
PICKLE, ADATA, MDATA = "model.pt", "adata.h5ad", "mdata.h5mu"  # scvi-tools' names
_WEIGHT = "weight/"
_ATTRIBUTE = re.compile(r"[a-zA-Z]\w*_")
# What scvi-tools saves besides of a model that was set up by a datamodule
OF_DATAMODULE = (
    *("n_batch", "n_extra_categorical_covs", "n_extra_continuous_covs", "n_labels", "n_sample", "n_vars"),
    *("batch_labels", "label_keys"),
)
_REMEDY = "Save the model again, or fit again."


class Folder(str):
    """Path of a folder that is to be read as a saved model by this module, whatever it holds.

    Attributes
    ----------
    trust
        Whether pickles in it may execute code.
    """

    trust: bool

    def __new__(cls, path: str | os.PathLike[str], *, trust: bool = False) -> Folder:
        """Mark a path."""
        folder = super().__new__(cls, os.fspath(path))
        folder.trust = trust
        return folder


@dataclass(frozen=True)
class Parts:
    """What a model is made of again.

    Attributes
    ----------
    attributes
        Public attributes whose names end in an underscore; ``registry_`` and ``init_params_`` among them.
    var_names
        Names of the features, for MuData by modality.
    state
        Weights and buffers of the network by name.
    """

    attributes: dict[str, Any]
    var_names: Any
    state: dict[str, Any]


# ---------------------------------------------------------------------------- writing


@contextmanager
def replacing(folder: str | os.PathLike[str], prefix: str, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``folder``; the files that the block writes there take their place.

    A new folder appears whole. In one that exists files are replaced one by one, the description of the model
    last, which holds checksums of the others.

    Raises
    ------
    InputError
        If the folder exists and is not to be overwritten; a :class:`ValueError`, as on the backbone.
    OutputError
        If it cannot be written.
    """
    final = Path(folder).expanduser().resolve()
    if final.exists() and not overwrite:
        raise InputError(
            f'"{folder}" already exists.',
            "Saved models are kept by default.",
            "Choose another folder, or pass overwrite=True.",
        )
    if final.exists() and not final.is_dir():
        raise OutputError(f'"{folder}" is a file.', "A model is saved as a folder.", "Choose another folder.")
    try:
        with _temporary(final, prefix) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        if isinstance(error, OutputError):
            raise
        rule, remedy = "Its folder must be writable and have room.", "Choose another place, or free space."
        raise OutputError(f'The model cannot be saved to "{folder}" ({error}).', rule, remedy) from error


@contextmanager
def _temporary(final: Path, prefix: str) -> Iterator[Path]:
    with io.scratch_directory(final) as scratch:
        temporary = Path(scratch) / "model"
        temporary.mkdir()
        yield temporary
        if not final.exists():
            temporary.rename(final)
            return
        written = sorted(temporary.iterdir(), key=lambda file: file.name == f"{prefix}{ABOUT}")
        for file in written:
            os.replace(file, final / file.name)
        for name in {f"{prefix}{name}" for name in (ABOUT, WEIGHTS, PICKLE)} - {one.name for one in written}:
            (final / name).unlink(missing_ok=True)  # of the model that was there


def write(folder: Path, prefix: str, parts: Parts, class_name: str) -> None:
    """Write a model into a folder that exists.

    Raises
    ------
    InputError
        If an attribute holds what the format has no form for.
    """
    tensors: Tensors = {f"{_WEIGHT}{n}": _own(t) for n, t in parts.state.items() if torch.is_tensor(t)}
    others = {name: value for name, value in parts.state.items() if not torch.is_tensor(value)}
    whole = {"attributes": parts.attributes, "var_names": parts.var_names, "state": others}
    try:
        content = {name: encode(value, tensors, name) for name, value in whole.items()}
    except (TypeError, RecursionError) as error:
        raise InputError(
            f"The model cannot be saved as data: {error}.",
            "Model files hold numbers, text, arrays, tables, and the records of isoVI.",
            "Pass scvi_format=True to write scvi-tools' model.pt, a pickle, which others have to trust.",
        ) from error
    save_file(tensors, folder / f"{prefix}{WEIGHTS}")
    checksums = {"content": _digest(content), "tensors": io.sha256(folder / f"{prefix}{WEIGHTS}")}
    versions = {name: version(name) for name in ("isovi", "scvi-tools", "torch")}
    about = {"format": FORMAT, "schema": SCHEMA, "class": class_name, "versions": versions}
    text = json.dumps({**about, "checksums": checksums, "content": content}, allow_nan=False, indent=1)
    (folder / f"{prefix}{ABOUT}").write_text(text, encoding="utf-8")


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with memory of its own, which safetensors wants."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---------------------------------------------------------------------------- reading


def is_ours(folder: str | os.PathLike[str], prefix: str | None = None) -> bool:
    """Whether a folder holds a model that :func:`write` wrote."""
    return os.path.isfile(os.path.join(folder, f"{prefix or ''}{ABOUT}"))


def read(folder: Folder, prefix: str | None = None, device: Any = None) -> Parts | None:
    """Read a saved model: its data, or what can be read of scvi-tools' pickle without executing anything.

    Parameters
    ----------
    folder
        The folder.
    prefix
        With which the names of its files begin.
    device
        Where weights are put.

    Returns
    -------
    The parts of the model; ``None`` if it is a pickle that is trusted, which scvi-tools reads.

    Raises
    ------
    InputError
        If there is no model, or it is damaged, not of this version, or not to be read as data.
    """
    prefix = prefix or ""
    if is_ours(folder, prefix):
        return _read_ours(folder, prefix, device)
    if folder.trust:
        return None
    file = _file(folder, f"{prefix}{PICKLE}")
    if file is None:
        raise InputError(
            f'"{folder}" holds no {prefix}{ABOUT} and no {prefix}{PICKLE}.',
            "It must be the folder of a saved model.",
            "Name such a folder, and the prefix with which it was saved.",
        )
    return _checked(Parts(*read_pickled(file, device)), file)


def read_data(folder: Folder, prefix: str | None, parts: Parts) -> Any:
    """The data that was saved with a model; ``False``, with scvi-tools' warning, if there is none.

    Raises
    ------
    InputError
        If it is damaged or refers to other files.
    """
    multimodal = parts.attributes["registry_"].get("setup_method_name") == "setup_mudata"
    file = _file(folder, f"{prefix or ''}{MDATA if multimodal else ADATA}")
    if file is None:
        warnings.warn(
            "Save path contains no saved anndata and no adata was passed. "
            "Model will be loaded without anndata.",
            UserWarning,
            stacklevel=2,
        )
        return False
    return read_stored(file, mudata.read if multimodal else None)


def _read_ours(folder: Folder, prefix: str, device: Any) -> Parts:
    about, weights = (_file(folder, f"{prefix}{name}") for name in (ABOUT, WEIGHTS))
    if about is None or weights is None:
        raise InputError(
            f'"{folder}" holds {prefix}{ABOUT} but no {prefix}{WEIGHTS}.',
            "A saved model is both files.",
            _REMEDY,
        )
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        _require_schema(found, about)
        _require_whole(found, weights)
        tensors = load_file(weights)
        parts = _decoded(found["content"], tensors, device)
    except InputError:
        raise
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
        *(OverflowError, RecursionError, RuntimeError, MemoryError, SafetensorError),
    ) as error:
        raise damaged(about.parent, f"{type(error).__name__}: {error}") from error
    return _checked(parts, about)


def _decoded(content: dict[str, Any], tensors: Tensors, device: Any) -> Parts:
    whole = decode(content, tensors)
    state = {n.removeprefix(_WEIGHT): t.to(device) for n, t in tensors.items() if n.startswith(_WEIGHT)}
    return Parts(whole["attributes"], whole["var_names"], {**state, **whole["state"]})


def _require_schema(found: Any, about: Path) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise damaged(about.parent, f"{about.name} does not describe a model")
    if found["schema"] != SCHEMA:
        raise InputError(
            f'The model in "{about.parent}" has schema {found["schema"]}.',
            f"This version of isoVI reads schema {SCHEMA}.",
            "Read it with the version of isoVI that wrote it.",
        )


def _require_whole(found: Mapping[str, Any], weights: Path) -> None:
    if found["checksums"]["content"] != _digest(found["content"]):
        raise damaged(weights.parent, "the description has changed since it was written")
    if found["checksums"]["tensors"] != io.sha256(weights):
        raise damaged(weights.parent, f"{weights.name} has changed, or is of another model")


def _checked(parts: Parts, file: Path) -> Parts:
    """The parts, if they are such as a model is made of; attributes are set on it by name."""
    attributes = parts.attributes
    fine = isinstance(attributes, dict) and isinstance(parts.state, dict)
    fine = fine and all(isinstance(attributes.get(name), dict) for name in ("registry_", "init_params_"))
    if not fine:
        raise damaged(file.parent, f"{file.name} does not describe a model")
    for name in attributes:
        if not _ATTRIBUTE.fullmatch(str(name)) and name not in OF_DATAMODULE:
            raise damaged(file.parent, f"{name!r} is no attribute of a model")
    n_weights = sum(weight.numel() for weight in parts.state.values() if torch.is_tensor(weight))
    if _largest(attributes["init_params_"]) > max(
        n_weights, 1
    ):  # layers, units and dimensions all have weights
        raise damaged(file.parent, f"its arguments claim more than its {n_weights:,} weights")
    return parts


def _largest(arguments: Any) -> int:
    """The largest whole number in the arguments of a model, however deep."""
    if isinstance(arguments, dict | list | tuple):
        inner = arguments.values() if isinstance(arguments, dict) else arguments
        return max((_largest(one) for one in inner), default=0)
    return arguments if type(arguments) is int else 0


def _file(folder: Folder, name: str) -> Path | None:
    """A file of the folder, if it is there; it must not be a link to somewhere else."""
    file = Path(folder) / name
    if not file.is_file():
        return None
    if not folder.trust and not file.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(
            f'"{file}" is a link to "{file.resolve()}".',
            "Nothing outside the folder of a model is read.",
            "Copy the file there, or pass trust=True if you trust where the folder comes from.",
        )
    return file


def damaged(folder: str | os.PathLike[str], reason: str) -> InputError:
    """The error for a model that cannot be read."""
    return InputError(
        f'The model in "{folder}" cannot be read ({reason}).', "A saved model must be complete.", _REMEDY
    )
