"""Metrics of a latent on each set of spots, the same for all methods."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import partial

import igraph
import numpy as np
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors

from isovi import tl
from isovi.errors import InputError, IsoviWarning
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, Spots
from isovi.tl.domains import cluster, standardize
from isovi.tl.evaluate import evaluate_fit, evaluate_geometry
from isovi.tl.metrics import is_labelled, spatial_neighbors
from isovi.tl.mixing import N_NEAREST
from isovi_bench import scores
from isovi_bench.prepare import SECTION_KEY, Prepared
from isovi_bench.task import Fitted, LastStep

Measured = dict[str, dict[str, float]]

LIKELIHOOD = ("reconstruction", "elbo", "mse_lognorm")
CLUSTERINGS = ("leiden", "mixture")
AGREEMENTS = ("nmi", "ari", "purity")
GROUPS: dict[str, tuple[str, ...]] = {
    "geometry": tuple(name for name in tl.METRICS if name not in LIKELIHOOD),
    "fit": LIKELIHOOD,
    "certificate": ("certified_constant",),
    "labels": tuple(f"{agreement}_{by}" for by in CLUSTERINGS for agreement in AGREEMENTS),
    "mixing": ("ilisi", "kbet"),
}
METRIC_NAMES = tuple(name for names in GROUPS.values() for name in names)
"""Names of the metrics that are computed unless a grid names others."""

WAYS = (*CLUSTERINGS, "own")
FURTHER_GROUPS: dict[str, tuple[str, ...]] = {
    "domains": (
        *("nmi_own", "ari_own"),
        *(f"{score}_{way}" for score in ("smoothness", "tiles") for way in WAYS),
    ),
    "transfer": ("label_accuracy", "label_f1"),
    "integration": ("silhouette_label", "clisi", "silhouette_batch", "graph_connectivity"),
    "placement": ("placed_error", "placed_aligned", "placed_contacts"),
    "denoising": ("molecule_loss", "molecule_deviance"),
}
FURTHER = tuple(name for names in FURTHER_GROUPS.values() for name in names)
"""Names of the metrics that are computed only where a grid names them: jobs that name none, and the results
that were made of them, stay what they were."""

NEIGHBORS = 15  # of the graph that Leiden divides
HALVINGS = 20  # of the interval in which its resolution is searched
RESOLUTIONS = (1e-3, 10.0)


def measure(fitted: Fitted, prepared: Prepared, *, seed: int = 0, metrics: tuple[str, ...] = ()) -> Measured:
    """Metrics of a latent, and of its model if it has one.

    Parameters
    ----------
    fitted
        What the method found.
    prepared
        What it was given, and the truth.
    seed
        Of the pairs, samples and clusterings.
    metrics
        Names among ``METRIC_NAMES`` and ``FURTHER``; those of the first that apply if empty.

    Returns
    -------
    For each set of spots (``train``, ``heldout``, ``all``) whose latent is known, the metrics by name.

    Raises
    ------
    InputError
        If the latent has another shape, or is not finite on training spots.
    """
    wanted = metrics or METRIC_NAMES
    groups: dict[str, Callable[[], Measured]] = dict(_of_last_steps(fitted, prepared))
    found: Measured = {}
    if fitted.latent is not None:
        latent = _latent(fitted, prepared)
        found = {name: {} for name in known_sets(latent, prepared.placement)}
        groups |= _groups(fitted, latent, prepared, seed) | _of_uses(fitted, latent, prepared, seed)
    whole = set(found)
    for group, compute in groups.items():
        if set((GROUPS | FURTHER_GROUPS)[group]) & set(wanted):
            for name, values in compute().items():
                kept = {key: value for key, value in values.items() if key in wanted}
                found[name] = found.get(name, {}) | kept
    return {name: values for name, values in found.items() if values or name in whole}


def _groups(
    fitted: Fitted, latent: np.ndarray, prepared: Prepared, seed: int
) -> dict[str, Callable[[], Measured]]:
    placement, labels = prepared.placement, prepared.labels
    subsets = known_sets(latent, placement)
    section = prepared.task.spots.obs[SECTION_KEY].to_numpy()
    of_geometry = (
        partial(control, latent, prepared, place=fitted.place)
        if prepared.shuffled
        else partial(geometry, latent, placement, place=fitted.place)
    )
    groups: dict[str, Callable[[], Measured]] = {
        "geometry": partial(of_geometry, seed),
        "certificate": partial(certificate, latent[:, fitted.place], placement, seed),
    }
    if fitted.model is not None:
        groups["fit"] = partial(evaluate_fit, fitted.model, prepared.task.spots, placement, seed=seed)
    if labels is not None:
        groups["labels"] = partial(
            _on_each, subsets, lambda spots: agreement(latent[spots], labels[spots], seed)
        )
    if len(np.unique(section)) > 1:
        groups["mixing"] = partial(
            _on_each, subsets, lambda spots: mixing(latent[spots, fitted.identity], section[spots])
        )
    return groups


def _of_uses(
    fitted: Fitted, latent: np.ndarray, prepared: Prepared, seed: int
) -> dict[str, Callable[[], Measured]]:
    """Groups of what users do with a latent."""
    labels, section = prepared.labels, prepared.task.spots.obs[SECTION_KEY].to_numpy()
    groups: dict[str, Callable[[], Measured]] = {
        "domains": partial(domains, fitted, latent, prepared, seed),
        "integration": partial(
            _on_each,
            known_sets(latent, prepared.placement),
            lambda spots: scores.integration_scores(
                latent[spots, fitted.identity], section[spots], None if labels is None else labels[spots]
            ),
        ),
    }
    if labels is not None:
        groups["transfer"] = partial(_transferred, latent, labels, prepared.placement, seed)
    return groups


def _of_last_steps(fitted: Fitted, prepared: Prepared) -> dict[str, Callable[[], Measured]]:
    """Groups of what a method does itself with positions and expression."""
    groups: dict[str, Callable[[], Measured]] = {}
    if fitted.positions is not None:
        groups["placement"] = partial(_placed, fitted.positions, prepared)
    if fitted.expression is not None and prepared.molecules is not None:
        groups["denoising"] = partial(_denoised, fitted.expression, prepared)
    return groups


def domains(fitted: Fitted, latent: np.ndarray, prepared: Prepared, seed: int) -> Measured:
    """Domains of the spots that were fitted, by common last steps and by the method's own.

    A method that has no last step of its own has the common one that its authors take.
    """
    rows, labels = prepared.task.rows, prepared.labels
    where, n_domains = prepared.placement.take(rows), prepared.task.n_domains
    found = {
        "leiden": leiden(latent[rows], n_domains, seed),
        "mixture": mixture(latent[rows], n_domains, seed),
    }
    found["own"] = np.asarray(fitted.domains()) if callable(fitted.domains) else found[fitted.domains]
    graph = spatial_neighbors(where.coordinates, where.section)
    tiles = tl.coordinate_domains(where.coordinates, n_domains, seed)
    named = None if labels is None else labels[rows]
    values = {
        f"{score}_{way}": value
        for way, codes in found.items()
        for score, value in scores.domain_scores(codes, named, graph, tiles).items()
    }
    return {"all" if len(rows) == len(latent) else TRAIN: values}


def _transferred(latent: np.ndarray, labels: np.ndarray, placement: Spots, seed: int) -> Measured:
    """Labels of held-out spots; where there are none, those that are hidden."""
    heldout = placement.split == HELDOUT
    name, asked = (HELDOUT, heldout) if heldout.any() else ("all", scores.hidden_labels(labels, seed))
    return {name: scores.transfer_scores(latent, labels, asked)}


def _placed(positions: LastStep, prepared: Prepared) -> Measured:
    truth, task = prepared.placement.coordinates, prepared.task
    found = scores.in_frame(positions(), task.seen.obsm["spatial"], truth[task.rows])
    heldout = prepared.placement.split == HELDOUT
    return {HELDOUT: scores.placement_scores(found[heldout], truth[heldout])}


def _denoised(expression: LastStep, prepared: Prepared) -> Measured:
    assert prepared.molecules is not None
    seen = prepared.task.spots.X
    return {"all": scores.denoising_scores(expression(), seen, prepared.molecules, prepared.heldout_share)}


def _on_each(subsets: dict[str, np.ndarray], compute: Callable[[np.ndarray], dict[str, float]]) -> Measured:
    return {name: compute(spots) for name, spots in subsets.items()}


def _latent(fitted: Fitted, prepared: Prepared) -> np.ndarray:
    latent = np.asarray(fitted.latent, dtype=np.float64)
    n_obs = prepared.task.spots.n_obs
    if latent.ndim != 2 or len(latent) != n_obs:
        raise InputError(
            f"The method returned a latent of shape {latent.shape}.",
            f"It has one row for each of the {n_obs} spots.",
            "Return NaN for spots that it cannot place.",
        )
    lost = ~np.isfinite(latent[prepared.placement.split == TRAIN]).all(axis=1)
    if lost.any():
        raise InputError(
            f"The latent of {int(lost.sum())} of {len(lost)} training spots is not finite.",
            "A method places every spot that it was trained on.",
            "Train for fewer epochs or at a lower rate if it diverged.",
        )
    return latent


def known_sets(latent: np.ndarray, placement: Spots) -> dict[str, np.ndarray]:
    """Indices of the spots of each set that is wholly finite in the latent.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    placement
        Where the spots are.
    """
    finite = np.isfinite(latent).all(axis=1)
    return {name: spots for name, spots in placement.subsets().items() if finite[spots].all()}


def geometry(latent: np.ndarray, placement: Spots, seed: int, *, place: slice = slice(None)) -> Measured:
    """Geometry on the sets that are wholly known; see :func:`isovi.tl.evaluate.evaluate_geometry`."""
    finite = np.isfinite(latent).all(axis=1)
    found = evaluate_geometry(latent[finite], placement.take(finite), place=place, seed=seed)
    return {name: found[name] for name in known_sets(latent, placement)}


def control(latent: np.ndarray, prepared: Prepared, seed: int, *, place: slice = slice(None)) -> Measured:
    """Geometry of a shuffled control: on training spots against the positions that the method was given.

    What it reaches there, it has memorised. Held-out spots keep their true positions.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    prepared
        With shuffled positions in its task.
    seed
        Of the pairs.
    place
        Latent dimensions whose distances are to follow the tissue.
    """
    found = geometry(latent, prepared.placement, seed, place=place)
    memorised = geometry(latent, prepared.as_given(), seed, place=place)[TRAIN]
    return {TRAIN: memorised, **({HELDOUT: found[HELDOUT]} if HELDOUT in found else {})}


def certificate(latent: np.ndarray, placement: Spots, seed: int) -> Measured:
    """L(0.1) certified for random pairs of held-out spots; nothing where these are too few."""
    if HELDOUT not in known_sets(latent, placement):
        return {}
    adata = AnnData(obsm={"X_isovi": latent, "spatial": placement.coordinates})
    adata.obs[SECTION_KEY] = placement.section
    adata.obs[SPLIT_KEY] = placement.split
    cells = np.flatnonzero(placement.split == HELDOUT)
    try:
        point = tl.certificate(adata, section_key=SECTION_KEY, cells=cells, matched=False, seed=seed).point
    except InputError:
        return {}
    return {} if point is None else {HELDOUT: {"certified_constant": point.L}}


# ---------------------------------------------------------------------------- labels


def agreement(latent: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Agreement of two clusterings with labels, over the labelled spots; as many clusters as labels.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``, finite.
    labels
        Shape ``(cell,)``; unlabelled spots are clustered with the others.
    seed
        Of the clusterings.

    Returns
    -------
    ``nmi_``, ``ari_`` and ``purity_`` by ``leiden`` and by ``mixture``; empty if fewer than two labels.
    """
    known = is_labelled(labels)
    reference = labels[known].astype(str)
    n_labels = len(set(reference))
    if n_labels < 2:
        return {}
    clusters = {
        "leiden": leiden(latent, n_labels, seed),
        "mixture": mixture(latent, n_labels, seed),
    }
    return {
        f"{name}_{by}": float(score(reference, found[known]))
        for by, found in clusters.items()
        for name, score in zip(
            AGREEMENTS, (normalized_mutual_info_score, adjusted_rand_score, purity), strict=True
        )
    }


def purity(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Share of the spots that have the most frequent label of their cluster."""
    return float(contingency_matrix(labels, clusters).max(axis=0).sum() / len(labels))


def mixture(latent: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Clusters of a Gaussian mixture with one shared covariance, shape ``(cell,)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # fewer clusters show in the metrics
        return cluster(standardize(latent), n_clusters, seed)


def leiden(latent: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Leiden clusters of the graph of the 15 nearest neighbours in the latent.

    The resolution is halved towards the number of clusters; the last that came nearest is taken.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``, finite.
    n_clusters
        How many are sought.
    seed
        Of the heuristic.

    Returns
    -------
    Cluster of each spot, shape ``(cell,)``.
    """
    graph = _neighbor_graph(latent)
    low, high = RESOLUTIONS
    best = np.zeros(len(latent), dtype=np.int64)
    for _ in range(HALVINGS):
        resolution = float(np.sqrt(low * high))
        found = _communities(graph, resolution, seed)
        n_found = found.max() + 1
        if abs(n_found - n_clusters) <= abs(best.max() + 1 - n_clusters):
            best = found
        if n_found == n_clusters:
            break
        low, high = (resolution, high) if n_found < n_clusters else (low, resolution)
    return best


def _neighbor_graph(latent: np.ndarray) -> igraph.Graph:
    k = min(NEIGHBORS, len(latent) - 1)
    near = NearestNeighbors(n_neighbors=k).fit(latent).kneighbors_graph().tocoo()
    graph = igraph.Graph(n=len(latent), edges=np.stack([near.row, near.col], axis=1))
    return graph.simplify()


def _communities(graph: igraph.Graph, resolution: float, seed: int) -> np.ndarray:
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = graph.community_leiden("modularity", resolution=resolution, n_iterations=2)
    finally:
        igraph.set_random_number_generator(random)  # igraph's own default
    return np.array(found.membership)


# ---------------------------------------------------------------------------- sections


def mixing(latent: np.ndarray, section: np.ndarray) -> dict[str, float]:
    """How well sections mix in the latent: iLISI and the acceptance of kBET, 1 is best.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``, finite.
    section
        Shape ``(cell,)``.

    Returns
    -------
    ``ilisi`` and ``kbet``; empty if the spots are of one section, or too few.
    """
    if len(np.unique(section)) < 2 or len(latent) <= N_NEAREST:
        return {}
    found = tl.mixing_of(latent, section)
    return {name: found[name] for name in GROUPS["mixing"]}
