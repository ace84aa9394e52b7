"""Match other data to the genes and columns of a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data import check
from isovi.data.columns import ids, some, texts
from isovi.errors import InputError, IsoviWarning

_COLUMNS = ("batch_key", "labels_key", "section_key")
_UNREAD = ("labels_key", "section_key")  # which scvi-tools asks for, and no encoder reads
_NUMBERS = ("size_factor_key", "continuous_covariate_keys")


@dataclass(frozen=True)
class Query:
    """Data with the genes of a model, in the model's order.

    Attributes
    ----------
    adata
        New data with counts in ``X`` (and in the model's layer), and ``obs`` columns that the model reads.
    missing
        Genes of the model that the data does not have; their counts are zero.
    unknown
        Number of cells whose batch or categorical covariate is none of the model's, by the column and the
        category of the model that they got.
    """

    adata: AnnData
    missing: pd.Index
    unknown: dict[tuple[str, str], int]

    @property
    def present(self) -> np.ndarray:
        """Mask of the model's genes that the data has, shape ``(gene,)``."""
        return ~self.adata.var_names.isin(self.missing)

    @property
    def empty(self) -> np.ndarray:
        """Mask of the cells without any count in the model's genes, shape ``(cell,)``."""
        return np.diff(self.adata.X.indptr) == 0


def match(adata: AnnData, reference: AnnData, setup: dict[str, Any]) -> Query:
    """Match data to the genes and columns of a model.

    Parameters
    ----------
    adata
        Data with raw counts in the same layer as the reference; not changed.
    reference
        Data with which the model was set up.
    setup
        Arguments of its ``setup_anndata``.

    Returns
    -------
    Genes are matched by name; those that the model does not know are left out. A category that the model has
    not seen, or a missing column, becomes the most frequent category of the reference: encoders do not read
    it by default, but scvi-tools requires it.

    Raises
    ------
    InputError
        If no gene is shared, names repeat, counts are not counts, or a continuous covariate is missing.
    """
    layer = setup.get("layer")
    check.size(adata)
    check.names(adata)
    check.genes_in_common(adata.var_names, reference.var_names)
    check.counts(adata, layer, allow_empty_genes=True)
    counts = _columns(adata.X if layer is None else adata.layers[layer], adata.var_names, reference.var_names)
    obs, unknown = _obs(adata, reference, setup)
    matched = AnnData(counts, obs=obs, var=pd.DataFrame(index=reference.var_names))
    if layer is not None:
        matched.layers[layer] = counts
    return Query(matched, reference.var_names.difference(adata.var_names, sort=False), unknown)


class GenesDiffer(InputError):
    """The genes of some data are not those of a model, in its order.

    Attributes
    ----------
    genes
        Of the model.
    """

    def __init__(self, adata: AnnData, genes: pd.Index) -> None:
        have = adata.var_names
        same = len(have) == len(genes) and have.isin(genes).all()
        first = ", ".join(map(str, genes[:3]))
        super().__init__(
            f"The data has {'another order of genes' if same else 'other genes'} than the model.",
            f"They must be its {len(genes)} genes in its order: {first}, ...",
            "Pass the data to get_latent_representation or load_query_data, which match genes by name, or "
            "take the model's genes of it.",
        )
        self.genes = genes


def aligned(adata: AnnData, genes: pd.Index) -> AnnData:
    """Data with the genes of a model, in its order.

    Parameters
    ----------
    adata
        Data with the same or other genes; not changed.
    genes
        Names of the model's genes.

    Returns
    -------
    The data itself if its genes are those, else a copy: genes are matched by name, those that the model does
    not know are left out, and missing ones have no counts (then without ``varm``, ``varp`` and ``raw``).

    Raises
    ------
    InputError
        If no gene is shared, or names repeat.

    Warns
    -----
    IsoviWarning
        With what was changed.
    """
    if adata.var_names.equals(genes):
        return adata
    if adata.var_names.has_duplicates:
        check.names(adata)
    common = check.genes_in_common(adata.var_names, genes)
    missing, unknown = len(genes) - len(common), adata.n_vars - len(common)
    notes = ["are brought to the order of the model"]
    notes += [f"{missing} of the model's {len(genes)} are missing and have no counts"] if missing else []
    notes += [f"{unknown} that it does not know are left out"] if unknown else []
    warnings.warn(
        f"Genes are matched by name in a copy of the data: they {', '.join(notes)}.", IsoviWarning, 3
    )
    layers = {name: adata.layers[name] for name in adata.layers if name is not None}
    if not missing:
        return adata[:, genes].copy()
    return AnnData(
        X=None if adata.X is None else _columns(adata.X, adata.var_names, genes),
        obs=adata.obs.copy(),
        var=pd.DataFrame(index=genes),
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
        layers={name: _columns(layer, adata.var_names, genes) for name, layer in layers.items()},
    )


def with_genes(loading: Callable[[Any], Any], adata: Any, *, same: bool = False) -> Any:
    """What a function makes of data, which is brought to the genes that it asks for if these are others.

    Parameters
    ----------
    loading
        The function.
    adata
        Data for it.
    same
        Whether the data must have the same genes, in any order.

    Raises
    ------
    InputError
        If no gene is shared, or the genes differ and must not.
    """
    try:
        return loading(adata)
    except GenesDiffer as error:
        if same and (len(error.genes) != adata.n_vars or not adata.var_names.isin(error.genes).all()):
            raise
        return loading(aligned(adata, error.genes))


def forget(model: Any, adata: AnnData) -> None:
    """Release data that a model has encoded: scvi-tools keeps all of it in memory.

    Its own ``deregister_manager`` finds only data that the model's class knows as well.
    """
    manager = model.get_anndata_manager(adata)
    if manager is not None:
        model.register_manager(manager)
        model.deregister_manager(adata)


def _columns(counts: Any, have: pd.Index, want: pd.Index) -> sparse.csr_matrix:
    """Columns in the order of ``want``, empty where missing; the product adds up entries at one place."""
    where = have.get_indexer(want)
    found = np.flatnonzero(where >= 0)
    ones = np.ones(len(found), dtype=np.float32)
    selector = sparse.csr_matrix((ones, (where[found], found)), shape=(len(have), len(want)))
    matched = sparse.csr_matrix(sparse.csr_matrix(counts, dtype=np.float32) @ selector)
    matched.sort_indices()  # canonical form, which loaders read faster
    return matched


def _obs(
    adata: AnnData, reference: AnnData, setup: dict[str, Any]
) -> tuple[pd.DataFrame, dict[tuple[str, str], int]]:
    """The columns that the model reads, and how many cells got the reference's most frequent category."""
    obs, unknown = pd.DataFrame(index=adata.obs_names), {}
    for key in [setup.get(name) for name in _COLUMNS] + list(setup.get("categorical_covariate_keys") or []):
        if key is not None:
            obs[key], most, n_unknown = _categories(adata, reference.obs[key])
            if n_unknown and key not in map(setup.get, _UNREAD):
                unknown[key, most] = n_unknown
    for name in _NUMBERS:
        for key in np.atleast_1d(setup.get(name) or []):
            obs[key] = _numbers(adata, key, name)
    return obs, unknown


def _categories(adata: AnnData, of_reference: pd.Series) -> tuple[pd.Series, str, int]:
    """A column with values of the reference, where it has none the most frequent one; that; how often."""
    known = pd.Index(np.asarray(of_reference.unique()))
    code, most = np.full(adata.n_obs, -1), of_reference.mode()[0]
    if of_reference.name in adata.obs:  # 1, 1.0 and "1" are one category
        code = ids(known).get_indexer(ids(adata.obs[of_reference.name]))
    column = pd.Series(known.take(np.where(code < 0, known.get_loc(most), code)), index=adata.obs_names)
    return column, str(most), int((code < 0).sum())


def _numbers(adata: AnnData, key: str, name: str) -> pd.Series:
    remedy = f'Fill it in, for example with the mean of the reference: adata.obs["{key}"].'
    if key not in adata.obs:
        raise InputError(
            f'obs of the query has no "{key}".', f"The model reads it of every cell ({name}).", remedy
        )
    values = pd.to_numeric(texts(adata.obs[key]), errors="coerce").astype(np.float64)
    wrong = ~np.isfinite(values.to_numpy())
    if wrong.any():
        raise InputError(
            f'obs["{key}"] of the query is no finite number for {int(wrong.sum())} of {adata.n_obs} cells: '
            f"{some(adata.obs_names[wrong])}.",
            f"The model reads it of every cell ({name}).",
            remedy,
        )
    return values
