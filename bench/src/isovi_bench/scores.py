"""Scores of what users do with a method: domains, label transfer, integration, placement, denoising."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import accuracy_score, adjusted_rand_score, f1_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from isovi import tl
from isovi.tl.metrics import Graph, is_labelled

NEAREST = 15  # neighbours that vote for a label, and of the graph of cells of one label
HIDDEN = 0.25  # share of the labels that are hidden where no spots are held out
RARE = 1e-3  # weight of the mean profile in every estimate, so that none holds a molecule for impossible
N_LISI = 90  # neighbours of cLISI, as of iLISI

# ---------------------------------------------------------------------------- domains


def domain_scores(domains: NDArray, labels: NDArray | None, graph: Graph, tiles: NDArray) -> dict[str, float]:
    """How domains agree with labels, how smooth they are in tissue, and whether they are more than tiles.

    Parameters
    ----------
    domains
        Of each spot, shape ``(cell,)``.
    labels
        Of each spot, shape ``(cell,)``.
    graph
        Spatial neighbours, shape ``(cell, cell)``.
    tiles
        Domains made of the coordinates alone, shape ``(cell,)``.

    Returns
    -------
    ``nmi`` and ``ari`` with the labels; ``smoothness``, the share of pairs of neighbours in one domain; and
    ``tiles``, the adjusted Rand index with the tiles: near 1, the domains know nothing but coordinates.
    """
    source, target = graph.nonzero()
    found = {} if labels is None else tl.clustering_agreement(domains, labels)
    return {
        **found,
        "smoothness": float((domains[source] == domains[target]).mean()),
        "tiles": float(adjusted_rand_score(tiles, domains)),
    }


# ---------------------------------------------------------------------------- labels


def hidden_labels(labels: NDArray, seed: int) -> NDArray[np.bool_]:
    """Which spots have their labels hidden: a quarter of those that have one, shape ``(cell,)``."""
    known = np.flatnonzero(is_labelled(labels))
    hidden = np.zeros(len(labels), dtype=bool)
    hidden[np.random.default_rng(seed).permutation(known)[: round(HIDDEN * len(known))]] = True
    return hidden


def transfer_scores(latent: NDArray, labels: NDArray, asked: NDArray[np.bool_]) -> dict[str, float]:
    """How well labels pass to spots whose own are not looked at, by a vote of the 15 nearest in the latent.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``; spots that are not finite neither give nor take a label.
    labels
        Shape ``(cell,)``.
    asked
        Spots whose labels are predicted; the others give theirs.

    Returns
    -------
    ``label_accuracy``, and ``label_f1``: the mean of F1 over the labels of the asked spots. Empty where
    either side has no labelled spot.
    """
    usable = is_labelled(labels) & np.isfinite(latent).all(axis=1)
    given, taken = usable & ~asked, usable & asked
    if not given.any() or not taken.any():
        return {}
    names = labels.astype(str)
    voters = KNeighborsClassifier(min(NEAREST, int(given.sum()))).fit(latent[given], names[given])
    found, truth = voters.predict(latent[taken]), names[taken]
    return {
        "label_accuracy": float(accuracy_score(truth, found)),
        "label_f1": float(f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)),
    }


# ---------------------------------------------------------------------------- integration


def integration_scores(latent: NDArray, groups: NDArray, labels: NDArray | None) -> dict[str, float]:
    """What mixing keeps of the labels, and how labels mix, as scib-metrics measures it; 1 is best.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``, finite.
    groups
        Section, donor or patient of each cell, shape ``(cell,)``.
    labels
        Shape ``(cell,)``; cells without one are left out.

    Returns
    -------
    ``silhouette_label``, ``clisi`` (biology kept), ``silhouette_batch``, ``graph_connectivity`` (groups
    mixed). Empty with fewer than two labels or groups, or too few cells.
    """
    if labels is None:
        return {}
    known = is_labelled(labels)
    points, names, parts = latent[known], labels[known].astype(str), groups[known]
    if len(set(names)) < 2 or len(set(parts)) < 2 or len(points) <= N_LISI:
        return {}
    import scib_metrics  # imports jax, which takes seconds
    from scib_metrics.nearest_neighbors import NeighborsResults

    apart, near_by = NearestNeighbors(n_neighbors=N_LISI).fit(points).kneighbors(points)
    near = NeighborsResults(indices=near_by, distances=apart)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that lie in one group only
        found = {
            "silhouette_label": scib_metrics.silhouette_label(points, names),
            "clisi": scib_metrics.clisi_knn(near, names),
            "silhouette_batch": scib_metrics.silhouette_batch(points, names, parts),
            "graph_connectivity": scib_metrics.graph_connectivity(near.subset_neighbors(NEAREST), names),
        }
    return {name: float(value) for name, value in found.items()}


# ---------------------------------------------------------------------------- placement


def in_frame(positions: NDArray, given: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Positions in the frame and unit of the truth, from those of the spots that a method saw.

    Parameters
    ----------
    positions
        In the frame that the method was given, shape ``(cell, axis)``.
    given, truth
        Positions of the spots that it saw in both frames, in any order, shape ``(seen cell, axis)``.
    """
    scale = truth.std(axis=0).mean() / given.std(axis=0).mean()
    return (positions - given.mean(axis=0)) * scale + truth.mean(axis=0)


def placement_scores(positions: NDArray, truth: NDArray) -> dict[str, float]:
    """Errors of the spots that a method placed by its own last step.

    Parameters
    ----------
    positions, truth
        In spacings, shape ``(cell, axis)``; rows that are not finite are not placed.

    Returns
    -------
    ``placed_error``, the median; ``placed_aligned``, after the similarity that fits best, for sections with
    frames of their own; ``placed_contacts``. Empty if fewer than three are placed.
    """
    placed = np.isfinite(positions).all(axis=1)
    if placed.sum() < 3:
        return {}
    found: dict[str, Any] = tl.placement_error(positions[placed], truth[placed])
    names = {"median_error": "error", "aligned_median_error": "aligned", "contact_f1": "contacts"}
    return {f"placed_{name}": float(found[key]) for key, name in names.items()}


# ---------------------------------------------------------------------------- denoising


def denoising_scores(
    expression: NDArray, seen: sparse.csr_matrix, heldout: sparse.csr_matrix, share: float
) -> dict[str, float]:
    """How well an estimate predicts molecules that were held out of the same spots.

    Thinned counts of a spot are independent given its expression, so their expectation is the expression
    times the depth that was seen (Batson, Royer & Webber 2019). Every estimate is mixed with a thousandth of
    the mean profile.

    Parameters
    ----------
    expression
        Share of each gene, shape ``(cell, gene)``; rows need not sum to one, and those that are not finite
        are left out.
    seen, heldout
        Molecules of the same shape.
    share
        Of the molecules that are held out.

    Returns
    -------
    ``molecule_loss``, minus the log likelihood of a held-out molecule given its spot, in nats; and
    ``molecule_deviance``, the mean Poisson deviance of an entry. Empty if no row is finite.
    """
    known = np.isfinite(expression).all(axis=1)
    if not known.any():
        return {}
    mean = np.asarray(seen.sum(axis=0), dtype=np.float64).ravel()
    estimate = np.maximum(np.asarray(expression[known], dtype=np.float64), 0.0)
    estimate /= np.maximum(estimate.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    estimate = (1 - RARE) * estimate + RARE * (mean + 1) / (mean + 1).sum()
    depth = np.asarray(seen[known].sum(axis=1), dtype=np.float64).ravel() * share / (1 - share)
    counted = heldout[known].tocoo()
    counted.eliminate_zeros()
    y, p = counted.data.astype(np.float64), estimate[counted.row, counted.col]
    expected = depth[counted.row] * p
    logs = y * np.log(y / np.maximum(expected, np.finfo(float).tiny))
    deviance = 2 * (logs.sum() - y.sum() + (depth * estimate.sum(axis=1)).sum())
    return {
        "molecule_loss": float(-(y * np.log(p)).sum() / y.sum()),
        "molecule_deviance": float(deviance / estimate.size),
    }
