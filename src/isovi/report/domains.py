"""What a report says of the domains: markers, composition, agreement with labels, choice of their number."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans

from isovi import tl
from isovi.pl import _data
from isovi.report.record import Agreement, Composition, Domains, Dots, Marker, Option
from isovi.run import DOMAIN_KEY, LATENT_KEY, PARTS, Run

N_MARKERS = 5  # of each domain in the table; two of them in the dot plot
N_DOTTED = 2
_LEAST_SPOTS = 3  # of a domain that is compared with the others
_REPS = {LATENT_KEY: "the whole latent representation"} | {
    key: f"the {part} part of the latent representation" for key, part in PARTS.items()
}
_MOST_ROWS = 30  # sections or labels of a composition


def domains(run: Run, rows: NDArray, expression: tuple[sparse.csc_matrix, list[str]] | None) -> Domains:
    """The record of the domains.

    Parameters
    ----------
    run
        A complete run.
    rows
        Rows of its data that are shown.
    expression
        log1p of scaled counts of these rows, and names of genes.
    """
    column = run.adata.obs[DOMAIN_KEY].astype("category")
    found = _data.groups(column, run.adata.uns.get(f"{DOMAIN_KEY}_colors", ()))
    markers, dots = ([], None) if expression is None else _markers(column.iloc[rows], *expression)
    return Domains(
        names=found.names,
        colors=found.colors,
        sizes=tuple(np.bincount(found.codes, minlength=len(found.names)).tolist()),
        found_in=_REPS.get(run.adata.uns.get(DOMAIN_KEY, {}).get("use_rep", ""), ""),
        markers=markers,
        dots=dots,
        composition=_compositions(run, found),
        agreement=_agreement(run),
        options=_options(run.adata.uns.get(DOMAIN_KEY, {})),
    )


# ---------------------------------------------------------------------------- markers


def _markers(
    column: pd.Series, matrix: sparse.csc_matrix, names: list[str]
) -> tuple[list[Marker], Dots | None]:
    """Genes that are higher in a domain than in all others, by Welch's t of log-normalised counts.

    p-values are left out: the domains were found in the same counts.
    """
    counts = column.value_counts()
    compared = [name for name in column.cat.categories if counts.get(name, 0) >= _LEAST_SPOTS]
    if len(compared) < 2:
        return [], None
    kept = column.isin(compared).to_numpy()
    groups = pd.Categorical(column[kept], categories=compared)
    rows = sparse.csr_matrix(matrix)[kept]
    adata = AnnData(rows, obs=pd.DataFrame({"domain": groups}, index=np.arange(rows.shape[0]).astype(str)))
    adata.var_names = [str(number) for number in range(rows.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of genes that one group lacks
        sc.tl.rank_genes_groups(adata, "domain", method="t-test", n_genes=N_MARKERS)
    ranked = adata.uns["rank_genes_groups"]
    found = []
    for domain in compared:
        inside = np.asarray(groups == domain)
        for number, score, change in zip(
            *(ranked[key][domain] for key in ("names", "scores", "logfoldchanges")), strict=True
        ):
            gene = int(number)
            expressed = rows[:, [gene]].toarray().ravel() > 0
            if np.isfinite(score) and score > 0:
                shares = float(expressed[inside].mean()), float(expressed[~inside].mean())
                found.append(Marker(str(domain), names[gene], gene, float(score), float(change), *shares))
    return found, _dots(found, rows, groups)


def _dots(found: Sequence[Marker], rows: sparse.csr_matrix, groups: pd.Categorical) -> Dots | None:
    """Mean and share of the best markers in each domain."""
    best: dict[int, str] = {}
    for domain in groups.categories:
        mine = [one for one in found if one.domain == str(domain) and one.column not in best]
        best |= {one.column: one.gene for one in mine[:N_DOTTED]}
    if not best:
        return None
    values = rows[:, list(best)].toarray()
    inside = [np.asarray(groups == domain) for domain in groups.categories]
    mean = np.array([values[one].mean(axis=0) for one in inside])
    share = np.array([(values[one] > 0).mean(axis=0) for one in inside])
    scaled = mean / np.maximum(mean.max(axis=0), 1e-12)
    return Dots(tuple(best.values()), tuple(map(str, groups.categories)), scaled.tolist(), share.tolist())


# ---------------------------------------------------------------------------- composition and labels


def _compositions(run: Run, found: _data.Groups) -> list[Composition]:
    """Share of each domain in each section, and in each label."""
    keys = {"section": run.settings.section_key, "label": run.settings.label_key}
    made = []
    for what, key in keys.items():
        if key is None or key not in run.adata.obs:
            continue
        parts = _data.groups(run.adata.obs[key])
        shown = parts.names[:_MOST_ROWS]
        counts = np.zeros((len(parts.names), len(found.names)), dtype=np.int64)
        np.add.at(counts, (parts.codes, found.codes), 1)
        made.append(Composition(what, key, shown, counts[: len(shown)].tolist(), len(parts.names)))
    return made


def _agreement(run: Run) -> list[Agreement]:
    """ARI and NMI of domains with labels, beside those of k-means on the coordinates alone."""
    key, metrics = run.settings.label_key, run.metrics
    if key is None or key not in run.adata.obs or metrics.get("ari") is None:
        return []
    spots = run.spots
    means = KMeans(metrics["n_domains"], n_init=3, random_state=run.settings.seed % 2**32)
    known = spots.placed
    codes = np.full(len(spots), -1)
    codes[known] = means.fit_predict(spots.coordinates[known])
    alone: dict[str, Any] = tl.clustering_agreement(
        pd.Series(codes), run.adata.obs[key].reset_index(drop=True)
    )
    rows = {"domains": metrics, "k-means on the coordinates alone": alone}
    return [Agreement(name, float(one["ari"]), float(one["nmi"])) for name, one in rows.items()]


def _options(stored: Any) -> list[Option]:
    """Candidates for the number of domains, with their criterion and, where it was measured, stability."""
    if "candidates" not in stored or "bic" not in stored:
        return []
    numbers = np.asarray(stored["candidates"]).astype(int).tolist()
    bic = np.asarray(stored["bic"], dtype=float)
    stability = stored.get("stability")
    if isinstance(stability, dict) or stability is None or np.size(stability) != len(numbers):
        stability = np.full(len(numbers), np.nan)
    steady = [float(one) if np.isfinite(one) else None for one in np.asarray(stability, dtype=float).ravel()]
    rows = zip(numbers, bic.tolist(), steady, strict=True)
    return [Option(number, one, share, number == int(stored["n_domains"])) for number, one, share in rows]
