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
from isovi.errors import InputError, IsoviWarning

_COLUMNS = ("batch_key", "labels_key", "section_key")
_COLUMN_LISTS = ("categorical_covariate_keys",)
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
    """

    adata: AnnData
    missing: pd.Index

    @property
    def present(self) -> np.ndarray:
        """Mask of the model's genes that the data has, shape ``(gene,)``."""
        return ~self.adata.var_names.isin(self.missing)


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
    it, but scvi-tools requires it.

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
    obs = _obs(adata, reference, setup)
    matched = AnnData(counts, obs=obs, var=pd.DataFrame(index=reference.var_names))
    if layer is not None:
        matched.layers[layer] = counts
    return Query(matched, reference.var_names.difference(adata.var_names, sort=False))


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


def _obs(adata: AnnData, reference: AnnData, setup: dict[str, Any]) -> pd.DataFrame:
    keys = [setup.get(name) for name in _COLUMNS] + [key for n in _COLUMN_LISTS for key in setup.get(n) or []]
    obs = pd.DataFrame(index=adata.obs_names)
    for key in filter(None, keys):
        known = reference.obs[key].astype(str)
        own = adata.obs[key].astype(str) if key in adata.obs else pd.Series("", index=adata.obs_names)
        obs[key] = own.where(own.isin(set(known)), known.mode()[0])
    for name in _NUMBERS:
        for key in np.atleast_1d(setup.get(name) or []):
            if key not in adata.obs:
                raise InputError(
                    f'obs of the query has no "{key}".',
                    f"The model reads it of every cell ({name}).",
                    f'Add the column, for example with the mean of the reference: adata.obs["{key}"].',
                )
            obs[key] = adata.obs[key]
    return obs
