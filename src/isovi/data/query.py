"""Match other data to the genes and columns of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data import check

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
        If no gene is shared, names repeat, or counts are not counts.
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
            obs[key] = adata.obs[key]
    return obs
