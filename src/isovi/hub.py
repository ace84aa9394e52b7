"""Models on scvi-hub: the folder that scvi-tools' hub takes, put on Hugging Face and fetched from there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isovi.data.outputs import output_directory
from isovi.errors import InputError
from isovi.model import model as classes

METADATA, CARD = "_scvi_required_metadata.json", "README.md"  # names that scvi-hub gives
_FILES = ("model.pt", METADATA, "adata.h5ad", "mdata.h5mu")
_CARD = """---
license: {license_info}
library_name: scvi-tools
tags: {tags}
---

{description}

A distance-preserving model of spatial transcriptomics, made with [isoVI](https://isovi.readthedocs.io):

```
{model!r}
```

To load it:

```python
import isovi.hub

model = isovi.hub.download("{name}")
```
"""


def upload(
    model: Any,
    to: str | Path,
    *,
    license_info: str,
    description: str = "",
    tissues: Sequence[str] = (),
    save_anndata: bool = True,
    token: str | None = None,
    **repository: Any,
) -> None:
    """Put a model on scvi-hub, with a model card.

    Parameters
    ----------
    model
        A trained model.
    to
        Repository on Hugging Face, ``"owner/name"``, which is made if it is new. A ``pathlib.Path`` is
        a folder: the same files are written there, and nothing is sent.
    license_info
        Licence of the model and its data, such as ``"cc-by-4.0"``.
    description
        What it is a model of, in Markdown, for the card.
    tissues
        Names of tissues, for the search of the hub.
    save_anndata
        Whether the data goes with the model. Without it, whoever loads the model needs the data.
    token
        Access token of Hugging Face with the right to write; by default the one that is logged in.
    **repository
        For ``huggingface_hub.HfApi.create_repo``, such as ``private=True``.

    Raises
    ------
    InputError
        If huggingface_hub is needed and not installed.
    OutputError
        If the folder cannot be written.
    """
    about = {"license_info": license_info, "description": description, "name": str(to)}
    if isinstance(to, Path):
        _write(model, to, about, tissues, save_anndata)
        return
    hub = _huggingface()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _write(model, folder, about, tissues, save_anndata)
        api = hub.HfApi(token=token)
        api.create_repo(to, exist_ok=True, **repository)
        api.upload_folder(repo_id=to, folder_path=str(folder))


def download(
    source: str | Path, *, adata: Any = None, revision: str | None = None, model_class: Any = None
) -> Any:
    """Load a model of isoVI from scvi-hub.

    Parameters
    ----------
    source
        Repository on Hugging Face, ``"owner/name"``. A ``pathlib.Path`` is a folder that :func:`upload`
        wrote.
    adata
        Data to set up; by default that which was put there with the model.
    revision
        Branch, tag or commit of the repository; the newest by default.
    model_class
        Class of the model, needed only for a backbone of your own.

    Returns
    -------
    The model. What was downloaded is read as data, and nothing in it is executed: see
    :meth:`isovi.model.saving.SavesAsData.load`.

    Raises
    ------
    InputError
        If huggingface_hub is needed and not installed, there is no model of isoVI, its class is not known, or
        its files are not plain data.
    """
    if isinstance(source, Path):
        folder = source
    else:
        fetched = _huggingface().snapshot_download(source, allow_patterns=list(_FILES), revision=revision)
        folder = Path(fetched)
    found = model_class or _class_of(folder)
    return found.load(str(folder), adata=adata)


def _write(
    model: Any, folder: Path, about: dict[str, str], tissues: Sequence[str], save_anndata: bool
) -> None:
    name, versions = type(model).__name__, {one: version(one) for one in ("scvi-tools", "anndata")}
    tags = [
        *("biology", "genomics", "single-cell", "spatial-transcriptomics", f"model_cls_name:{name}"),
        *(f"scvi_version:{versions['scvi-tools']}", f"anndata_version:{versions['anndata']}"),
        *(f"tissue:{tissue}" for tissue in tissues),
    ]
    metadata = {
        "scvi_version": versions["scvi-tools"],
        "anndata_version": versions["anndata"],
        "model_cls_name": name,
        "training_data_url": None,
        "model_parent_module": "isovi",
    }
    with output_directory(folder) as new:
        model.save(str(new), overwrite=True, save_anndata=save_anndata, scvi_format=True)
        (new / METADATA).write_text(json.dumps(metadata, indent=4))
        (new / CARD).write_text(_CARD.format(model=model, tags=json.dumps(tags), **about), encoding="utf-8")


def _class_of(folder: Path) -> Any:
    """The class that the metadata name: ours, or that of a backbone of scvi-tools."""
    import scvi

    try:
        name = str(json.loads((folder / METADATA).read_text())["model_cls_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'"{folder}" is no model of scvi-hub ({type(error).__name__}).',
            f"A model has its class in {METADATA}.",
            "Name the folder or repository that isovi.hub.upload wrote.",
        ) from error
    if name in ("IsoSCVI", "IsoVAE"):
        return getattr(classes, name)
    backbone = getattr(scvi.model, name.removeprefix("Iso"), None)
    if not name.startswith("Iso") or backbone is None:
        raise InputError(
            f"The model is a {name}.",
            "Models of isoVI with a backbone of scvi-tools are known by their names.",
            "Give its class, model_class=isovi.preserve_distances(YourModel); others are read by scvi.hub.",
        )
    return classes.preserve_distances(backbone)


def _huggingface() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            "huggingface_hub is not installed.",
            "Models are put on scvi-hub and fetched from it with that package.",
            'Install it, for example by pip install "isovi[hub]", or give a folder as pathlib.Path.',
        ) from error
    return huggingface_hub
