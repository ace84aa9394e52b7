"""Which cells a model was trained on, by what they hold: names and rows change, counts do not.

The fingerprint of a cell is a sum over genes, modulo 2^64, of its count times an odd number that follows from
the gene's name. It does not depend on the order of cells or genes, on names of cells, or on how counts are
stored. Cells with the same counts cannot be distinguished: what is true of one is taken for true of all, and
trained goes before validation before unseen.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

from isovi.data import check
from isovi.errors import IsoviWarning
from isovi.spots import HELDOUT, TRAIN, VALIDATION

Fingerprints = NDArray[np.uint64]
Record = dict[str, Fingerprints]  # of the cells of each part of a training; plain arrays, as it is saved

RUN_KEY = "isovi"  # in uns: id, settings and seals of the run that wrote latent representation and split
SEALS = "sealed"  # in it: what latent representation the cells of a part had, by part
MINIFIED = "_scvi_adata_minify_type"  # scvi-tools' key in uns of data whose counts were dropped
_WITHOUT_COUNTS = "latent_posterior_parameters"  # scvi-tools' word for data whose counts were dropped


def training_split(model: Any, adata: AnnData) -> np.ndarray:
    """Which part each cell had in the training of a model.

    Cells are recognised by their counts in the model's genes, so subsets, reordered and renamed cells are
    recognised, and so are those of the reference of a model made by ``load_query_data``. Two cells with the
    same counts in all genes get the same answer, ``"train"`` if either was trained on.

    Parameters
    ----------
    model
        A model that isoVI trained, also after saving and loading, or any other scvi-tools model.
    adata
        Cells with counts where the model's data had them.

    Returns
    -------
    For each cell ``"train"``, ``"validation"`` (it stopped the training) or ``"heldout"`` (the model never
    saw it), shape ``(cell,)``. All are ``""`` if it cannot be known: the model was trained without AnnData,
    or by another class or version and is not with its training data; or ``adata`` lacks counts or genes.

    Warns
    -----
    IsoviWarning
        If it can be taken only from the row numbers of the last training, on the model's own data.
    """
    if _lacks_counts(adata) and adata is _data(model) and (rows := _split_of_rows(model)) is not None:
        return rows
    prints, seen = fingerprints(model, adata), _record(model)
    if prints is None or seen is None:
        return np.full(adata.n_obs, "", dtype="<U10")
    split = np.full(adata.n_obs, HELDOUT, dtype="<U10")
    for part in (VALIDATION, TRAIN):
        split[np.isin(prints, seen[part])] = part
    return split


def warn_unknown(consequence: str, stacklevel: int) -> None:
    """Warn that it is not known which cells a model was trained on, and say what follows."""
    warnings.warn(
        "It is not known which of the cells the model was trained on: it was saved without a record of them, "
        f"or the data lacks counts or some of the model's genes. {consequence}",
        IsoviWarning,
        stacklevel=stacklevel + 1,
    )


def fingerprints(model: Any, adata: AnnData | MuData) -> Fingerprints | None:
    """Fingerprints of cells over a model's genes, shape ``(cell,)``; ``None`` without such counts.

    Counts on disk are read block by block.
    """
    field = model.registry.get("field_registries", {}).get("X", {})
    where = field.get("data_registry", {})
    if where.get("attr_name") not in ("X", "layers") or where.get("mod_key") is not None:
        return None
    matrix = adata.X if where["attr_name"] == "X" else adata.layers.get(where["attr_key"])
    genes = pd.Index(np.asarray(field["state_registry"]["column_names"]).astype(str))
    names = adata.var_names.astype(str)
    if matrix is None or _lacks_counts(adata) or not names.is_unique or not genes.isin(names).all():
        return None
    factors = np.where(names.isin(genes), _factors(names), np.uint64(0))
    found = np.zeros(adata.n_obs, dtype=np.uint64)
    for block in check.blocks(matrix):
        values = sparse.csr_matrix(block.values)
        whole = sparse.csr_matrix((_as_integers(values.data), values.indices, values.indptr), values.shape)
        found[block.rows] += whole @ factors[block.columns]
    return found


def seals(latent: NDArray, split: np.ndarray) -> dict[str, NDArray[np.int32]]:
    """What ties a split to a latent representation: a number for each cell that the model did not train on.

    The numbers follow from the latent representations alone, so they hold for subsets, other orders and other
    names, and for no other model's latent representation.

    Parameters
    ----------
    latent
        Latent representation, shape ``(cell, latent)``.
    split
        Part of each cell, shape ``(cell,)``.

    Returns
    -------
    Numbers of the held-out and the validation cells; a part without cells is left out.
    """
    numbers = _seals(latent)
    found = {part: np.unique(numbers[split == part]) for part in (HELDOUT, VALIDATION)}
    return {part: of for part, of in found.items() if len(of)}


def count_unsealed(adata: AnnData, latent: NDArray, parts: Iterable[str]) -> int | None:
    """Number of cells whose latent representation is not that of a cell of these parts in the data's run.

    Parameters
    ----------
    adata
        The data, in whose ``uns`` the run that wrote its split is recorded.
    latent
        Latent representation of the cells, shape ``(cell, latent)``.
    parts
        Parts of the split that they are said to be of.

    Returns
    -------
    The number; ``None`` if the data does not say, as data that no run wrote.
    """
    record = adata.uns.get(RUN_KEY)
    sealed = record.get(SEALS) if isinstance(record, Mapping) else None
    if not isinstance(sealed, Mapping):
        return None
    known = [np.asarray(sealed[part]) for part in parts if part in sealed]
    return int((~np.isin(_seals(latent), np.concatenate([*known, np.empty(0, np.int32)]))).sum())


def _seals(latent: NDArray) -> NDArray[np.int32]:
    """A number for each row, from its values as 32-bit floats."""
    values = np.ascontiguousarray(latent, dtype=np.float32)
    bits = np.where(values == 0, np.float32(0), values).view(np.uint32).astype(np.uint64)  # -0 is 0
    sums = (bits * _factors(map(str, range(values.shape[1])))).sum(axis=1, dtype=np.uint64)
    return (sums >> np.uint64(32)).astype(np.uint32).view(np.int32)


def records_cells(train: Callable[..., None]) -> Callable[..., None]:
    """Let a model's ``train`` record which cells it saw, in ``seen_cells_``, which is saved with the model.

    What was recorded before, in earlier trainings or for the reference of a query model, is kept.
    """

    @functools.wraps(train)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        before = _record(self)
        train(self, *args, **kwargs)
        self.seen_cells_ = None if before is None else _with_cells_of(before, self)

    return recording


def keeps_record(from_scvi_model: Callable[..., Any]) -> Any:
    """Let a backbone's ``from_scvi_model`` hand on the record of the model that it starts from."""

    @functools.wraps(from_scvi_model)
    def keeping(cls: type, scvi_model: Any, *args: Any, **kwargs: Any) -> Any:
        model = from_scvi_model(cls, scvi_model, *args, **kwargs)
        model.seen_cells_ = _record(scvi_model)
        return model

    return classmethod(keeping)


def _record(model: Any) -> Record | None:
    """Fingerprints of the cells that a model saw, as far as that is known."""
    if hasattr(model, "seen_cells_"):
        return model.seen_cells_
    if model.train_indices is None and not model.is_trained and not _was_pretrained(model):
        return {TRAIN: np.empty(0, np.uint64), VALIDATION: np.empty(0, np.uint64)}
    rows = _split_of_rows(model)
    prints = None if rows is None else fingerprints(model, model.adata)
    if rows is None or prints is None:
        return None
    return {part: np.unique(prints[rows == part]) for part in (TRAIN, VALIDATION)}


def _with_cells_of(before: Record, model: Any) -> Record | None:
    """A record with the cells of the training that has just ended."""
    parts = _indices(model)
    prints = None if _data(model) is None or parts is None else fingerprints(model, model.adata)
    if prints is None or parts is None:
        return None
    return {part: np.union1d(before[part], prints[rows]) for part, rows in parts.items() if part != HELDOUT}


def _split_of_rows(model: Any) -> np.ndarray | None:
    """Part of each row of a model's own data in its only training; ``None`` if that cannot be known."""
    parts, recorded = _indices(model), getattr(model, "seen_cells_", None)
    if parts is None or _data(model) is None or not model.is_trained or _was_pretrained(model):
        return None
    n_obs, here = model.adata.n_obs, getattr(model, "trainer", None) is not None
    numbers = np.concatenate(list(parts.values()))
    if numbers.max(initial=-1) >= n_obs or not (here or len(numbers) == n_obs):
        return None
    if recorded is not None and len(recorded[TRAIN]) > len(parts[TRAIN]):
        return None
    if recorded is None or not here:
        warnings.warn(
            "Which cells the model was trained on is taken from the row numbers of its last training, on the "
            "assumption that its data is still the same, row by row. Train again to have a record of them.",
            IsoviWarning,
            stacklevel=4,
        )
    split = np.full(n_obs, HELDOUT, dtype="<U10")
    for part, rows in parts.items():
        split[rows] = part
    return split


def _indices(model: Any) -> dict[str, NDArray[np.int64]] | None:
    """Rows of each part of the last training; ``None`` if the backbone does not say which it trained on."""
    if model.train_indices is None:
        return None
    of = {HELDOUT: model.test_indices, VALIDATION: model.validation_indices, TRAIN: model.train_indices}
    return {part: np.asarray([] if rows is None else rows, dtype=np.int64) for part, rows in of.items()}


def _data(model: Any) -> Any:
    """The model's data; a model that a datamodule trained has none."""
    return getattr(model, "adata", None)


def _was_pretrained(model: Any) -> bool:
    return getattr(model, "was_pretrained", False)  # as SCANVI calls it


def _lacks_counts(adata: AnnData) -> bool:
    return adata.uns.get(MINIFIED) == _WITHOUT_COUNTS


def _factors(names: Iterable[str]) -> Fingerprints:
    """An odd number of 64 bits for each gene."""
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64) | np.uint64(1)


def _as_integers(values: NDArray) -> Fingerprints:
    """Values as 64-bit integers: counts as they are, others as the bits of their nearest float32."""
    rounded = np.asarray(values, dtype=np.float32)
    whole = (rounded == np.rint(rounded)) & (np.abs(rounded) < 2.0**63)
    counts = np.where(whole, rounded, np.float32(0)).astype(np.int64).view(np.uint64)
    return np.where(whole, counts, rounded.view(np.uint32).astype(np.uint64))
