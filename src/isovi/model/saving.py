"""Saving and loading as on the backbone, as data instead of a pickle: see :mod:`isovi.model.folder`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mudata import MuData

from isovi.data.query import with_genes
from isovi.model.folder import (
    ADATA,
    MDATA,
    OF_DATAMODULE,
    Folder,
    Parts,
    damaged,
    is_ours,
    read,
    read_data,
    replacing,
    write,
)
from isovi.model.hooks import files_read_by
from isovi.model.pickled import read_legacy

_NO_FIT = "Error(s) in loading state_dict"  # how torch's message of weights of other shapes begins
_NO_ROOM = "can't allocate memory"  # in its message of a network that does not fit into memory


class SavesAsData:
    """Mixin over a model class: its files are data, and loading them executes nothing."""

    def save(
        self,
        dir_path: str | os.PathLike[str],
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        legacy_mudata_format: bool = False,
        datamodule: Any = None,
        *,
        scvi_format: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model: its weights as safetensors, everything else as JSON.

        Parameters
        ----------
        dir_path
            Folder to write: ``model.json`` and ``model.safetensors``. A new one appears whole or not at all.
        prefix
            Prepended to the names of files.
        overwrite
            Replace a model in a folder that exists; other files in it stay.
        save_anndata
            Save the data as well, as ``adata.h5ad`` or ``mdata.h5mu``.
        save_kwargs
            For ``torch.save``; used with ``scvi_format`` only.
        legacy_mudata_format, datamodule
            As for the backbone.
        scvi_format
            Write ``model.pt`` instead, the pickle of scvi-tools, which the model hub of scvi-tools needs.
            Loading it needs ``trust=True`` if it holds anything but what is usual.
        **anndata_write_kwargs
            For writing the data.

        Raises
        ------
        InputError
            If the folder exists and is not to be overwritten, or an argument of the model has no form as data
            (a function, or a class other than torch's activations).
        OutputError
            If the folder cannot be written.
        """
        prefix = prefix or ""
        with replacing(dir_path, prefix, overwrite) as folder:
            if scvi_format:
                backbone_save: Callable[..., None] = super().save  # type: ignore[misc]
                given = (prefix, True, save_anndata, save_kwargs, legacy_mudata_format, datamodule)
                backbone_save(str(folder), *given, **anndata_write_kwargs)
                return
            model: Any = self
            if save_anndata:
                name = MDATA if isinstance(model.adata, MuData) else ADATA
                model.adata.write(str(folder / f"{prefix}{name}"), **anndata_write_kwargs)
            names = model.get_var_names(legacy_mudata_format=legacy_mudata_format)
            parts = Parts(_attributes(model, datamodule), names, dict(model.module.state_dict()))
            write(folder, prefix, parts, type(model).__name__)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: Any = None,
        *args: Any,
        trust: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a saved model; nothing in its folder is executed.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote. Of a ``model.pt``, as scvi-tools and isoVI 0.1.0 wrote it, plain
            data is read, and anything else is refused.
        adata
            Data to set up, as for the backbone: that which was saved with the model by default, none with
            ``False``.
        *args, **kwargs
            All that the backbone's ``load`` takes.
        trust
            Unpickle ``model.pt``, which may execute code, and follow links out of the folder. Set it only for
            a folder of your own, or from someone whom you would let run programs on this machine.

        Returns
        -------
        The model, which gives the same results as the one that was saved.

        Raises
        ------
        InputError
            If the folder holds no model, a damaged one, or one that is not plain data.
        """
        with files_read_by(read_files):
            try:
                return super().load(Folder(dir_path, trust=trust), adata, *args, **kwargs)  # type: ignore[misc]
            except RuntimeError as error:
                if not str(error).startswith(_NO_FIT) and _NO_ROOM not in str(error):
                    raise
                reason = "its weights have other names or shapes than its settings describe"
                raise damaged(dir_path, reason) from error

    @classmethod
    def load_registry(
        cls, dir_path: str | os.PathLike[str], prefix: str | None = None, *, trust: bool = False
    ) -> Any:
        """Registry of a saved model; ``trust`` as for :meth:`load`."""
        with files_read_by(read_files):
            return super().load_registry(Folder(dir_path, trust=trust), prefix)  # type: ignore[misc]

    @classmethod
    def view_setup_args(
        cls, dir_path: str | os.PathLike[str], prefix: str | None = None, *, trust: bool = False
    ) -> None:
        """Print the arguments by which a saved model's data was set up; ``trust`` as for :meth:`load`."""
        with files_read_by(read_files):
            super().view_setup_args(Folder(dir_path, trust=trust), prefix)  # type: ignore[misc]

    @classmethod
    def convert_legacy_save(
        cls,
        dir_path: str | os.PathLike[str],
        output_dir_path: str | os.PathLike[str],
        overwrite: bool = False,
        prefix: str | None = None,
        *,
        trust: bool = False,
        **save_kwargs: Any,
    ) -> None:
        """Convert a model of scvi-tools before 0.15, two pickles and a table; nothing in it is executed.

        Parameters
        ----------
        dir_path, output_dir_path, overwrite, prefix, **save_kwargs
            As for the backbone. What is written is data, as by :meth:`save`.
        trust
            Unpickle it, which may execute code, and write scvi-tools' ``model.pt``.

        Raises
        ------
        InputError
            If it holds anything but plain data.
        """
        if trust:
            asked = (str(dir_path), str(output_dir_path), overwrite, prefix)
            super().convert_legacy_save(*asked, **save_kwargs)  # type: ignore[misc]
            return
        parts = Parts(*read_legacy(Path(dir_path), prefix or ""))
        with replacing(output_dir_path, prefix or "", overwrite) as folder:
            write(folder, prefix or "", parts, cls.__name__)


def loads_query_data(load_query_data: Callable[..., Any]) -> Any:
    """A backbone's ``load_query_data`` that reads a saved reference as :meth:`SavesAsData.load` does.

    Genes are matched by name: if those of the data are not the reference's, in its order, the new model gets
    a copy with those, and a warning says what was changed.
    """

    @functools.wraps(load_query_data)
    def loading(
        cls: type,
        adata: Any = None,
        reference_model: Any = None,
        *args: Any,
        trust: bool = False,
        **kwargs: Any,
    ) -> Any:
        if isinstance(reference_model, str | os.PathLike):
            reference_model = Folder(reference_model, trust=trust)
        with files_read_by(read_files):
            return with_genes(
                lambda data: load_query_data(cls, data, reference_model, *args, **kwargs), adata
            )

    return classmethod(loading)


def reads_reference(prepare: Callable[..., Any]) -> Any:
    """A backbone's ``prepare_query_anndata`` that reads a saved reference as ``load`` does."""

    @functools.wraps(prepare)
    def preparing(data: Any, reference_model: Any, *args: Any, trust: bool = False, **kwargs: Any) -> Any:
        if isinstance(reference_model, str | os.PathLike):
            reference_model = Folder(reference_model, trust=trust)
        with files_read_by(read_files):
            return prepare(data, reference_model, *args, **kwargs)

    return staticmethod(preparing)


def read_files(
    dir_path: str, load_adata: bool, prefix: str | None = None, device: Any = None
) -> tuple[Any, ...] | None:
    """What scvi-tools makes a model of; ``None`` if it is to read the folder itself.

    That is what it is to do of a pickle that is trusted, and of one of other models in the meantime.
    """
    if not isinstance(dir_path, Folder) and not is_ours(dir_path, prefix):
        return None
    folder = dir_path if isinstance(dir_path, Folder) else Folder(dir_path)
    parts = read(folder, prefix, device)
    if parts is None:
        return None
    data = read_data(folder, prefix, parts) if load_adata else None
    return parts.attributes, parts.var_names, parts.state, data


def _attributes(model: Any, datamodule: Any) -> dict[str, Any]:
    """What scvi-tools saves of a model: public attributes whose names end in an underscore."""
    found = {name: value for name, value in vars(model).items() if name[0] != "_" and name[-1] == "_"}
    if found.get("registry_", {}).get("setup_method_name") == "setup_datamodule":
        found |= _of_datamodule(datamodule)
    return found


def _of_datamodule(datamodule: Any) -> dict[str, Any]:
    """What scvi-tools saves besides of a model that was set up by a datamodule."""
    fields = datamodule.registry["field_registries"]
    covariates = ("extra_categorical_covs", "extra_continuous_covs")
    values = {f"n_{name}": fields[name]["summary_stats"][f"n_{name}"] for name in covariates}
    names = {"n_sample": "n_samples"}
    return {n: values.get(n, getattr(datamodule, names.get(n, n), None)) for n in OF_DATAMODULE}
