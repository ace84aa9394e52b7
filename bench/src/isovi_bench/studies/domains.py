"""Domains with each kind of smoothing: agreement with labels, and with tiles that only know coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from isovi import tl
from isovi.data import check
from isovi.errors import InputError
from isovi.tl.domains import Smoothing
from isovi_bench.rendering import markdown

SEEDS = (0, 1, 2)  # of the clusterings
SMOOTHINGS: tuple[Smoothing, ...] = (None, "rings", "auto")
TILES = "coordinates alone"


def measure(
    files: Iterable[Path],
    *,
    label_key: str,
    use_rep: Sequence[str] = ("X_isovi",),
    section_key: str | None = None,
) -> pd.DataFrame:
    """Agreement of domains with labels, the number of labels given, over all spots.

    Parameters
    ----------
    files
        AnnData files, such as the ``adata.h5ad`` of a run, with positions in ``obsm["spatial"]``.
    label_key
        Column of ``obs`` with the labels; spots without one are left out of the agreement.
    use_rep
        Keys in ``obsm`` of latent representations.
    section_key
        Column of ``obs`` with the section.

    Returns
    -------
    A row for each file and way, with ``nmi``, ``ari`` and ``tiles`` (adjusted Rand index with k-means on the
    coordinates alone), means over three seeds of the clustering.

    Raises
    ------
    InputError
        If a file lacks one of these or has no labels.
    """
    rows = [
        {"file": file.stem if file.stem != "adata" else file.parent.name, **row}
        for file in files
        for row in _measure(anndata.read_h5ad(file), label_key, use_rep, section_key)
    ]
    return pd.DataFrame(rows)


def _measure(
    adata: AnnData, label_key: str, use_rep: Sequence[str], section_key: str | None
) -> list[dict[str, object]]:
    labels = adata.obs.get(label_key)
    if labels is None or not tl.is_labelled(labels).any():
        raise InputError(
            f'obs has no labels in "{label_key}" (it has: {", ".join(map(str, adata.obs)) or "nothing"}).',
            "Domains are compared with labels.",
            "Name a column with labels.",
        )
    n_labels = int(labels[tl.is_labelled(labels)].astype(str).nunique())
    places = check.spots(adata, section_key=section_key).coordinates
    tiles = [tl.coordinate_domains(places, n_labels, seed) for seed in SEEDS]
    rows: list[dict[str, object]] = [{"way": TILES, **_agreement(tiles.__getitem__, labels, tiles)}]
    for rep in use_rep:
        for smoothing in SMOOTHINGS:

            def found(seed: int, rep: str = rep, smoothing: Smoothing = smoothing) -> NDArray:
                tl.domains(
                    adata,
                    use_rep=rep,
                    section_key=section_key,
                    n_domains=n_labels,
                    smoothing=smoothing,
                    key_added="found",
                    seed=seed,
                )
                return adata.obs["found"].to_numpy()

            rows.append({"way": f"{rep}, {smoothing or 'none'}", **_agreement(found, labels, tiles)})
    return rows


def _agreement(
    found: Callable[[int], NDArray], labels: pd.Series, tiles: Sequence[NDArray]
) -> dict[str, float]:
    """Means over seeds."""
    scores = []
    for seed in SEEDS:
        domains = found(seed)
        with_labels = tl.clustering_agreement(domains, labels)
        scores.append([with_labels["nmi"], with_labels["ari"], adjusted_rand_score(tiles[seed], domains)])
    return dict(zip(("nmi", "ari", "tiles"), np.mean(scores, axis=0).tolist(), strict=True))


def report(rows: pd.DataFrame) -> str:
    """A Markdown table: NMI / ARI / agreement with tiles, a row for each way, a column for each file."""
    scores = rows.set_index(["way", "file"])[["nmi", "ari", "tiles"]]
    mean = scores.groupby("way").mean().assign(file="mean").set_index("file", append=True)
    cells = pd.concat([scores, mean]).map("{:.3f}".format).agg(" / ".join, axis=1).unstack("file")
    order = [*rows["file"].unique(), "mean"]
    return markdown(cells.loc[list(rows["way"].unique()), order].reset_index())
