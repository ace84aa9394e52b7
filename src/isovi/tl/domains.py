"""Spatial domains: a Gaussian mixture on the latent representation, smoothed in tissue."""

from __future__ import annotations

import warnings
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from isovi.data.writable import say_replaced
from isovi.errors import InputError, IsoviWarning
from isovi.tl import _inputs
from isovi.tl.metrics import Graph, spatial_neighbors
from isovi.tl.smoothing import smooth

Smoothing: TypeAlias = Literal["auto", "rings"] | None

N_RINGS = 3
"""Number of rings if none is given."""

MAX_DOMAINS = 20
"""Largest number of domains tried if none is given."""

_FIT_SPOTS = 20_000  # the mixture is fitted on at most this many spots, and applied to all
_CHOICE_SPOTS = 3_000  # the same for the fits that choose the number of domains
_SPOTS_PER_DOMAIN = 10  # minimum average when the number of domains is chosen
_RIDGE = 1e-3  # added to the covariance of features with variance one, which is then never singular
_MAX_SEED = 2**32 - 1


def domains(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    n_domains: int | None = None,
    smoothing: Smoothing = "auto",
    n_rings: int | None = None,
    n_neighbors: int = 6,
    key_added: str = "isovi_domain",
    seed: int = 0,
) -> None:
    """Find spatial domains: groups of spots with similar latent representations and surroundings.

    The latent representation is smoothed in tissue, scaled to variance one in each column and clustered by a
    Gaussian mixture whose components share one covariance.

    Parameters
    ----------
    adata
        Annotated data matrix; only ``obs[key_added]`` and ``uns[key_added]`` are written.
    use_rep
        Key in ``obsm`` of the latent representation, shape ``(n_obs, n_latent)``. By default the part whose
        distances are free, ``"X_isovi_identity"``; ``"X_isovi"`` without parts, and with fewer than 250 genes
        (``var["isovi_gene"]``, or all), of which that part does not keep enough to tell domains apart. What
        was taken is in ``uns[key_added]["use_rep"]``.
    spatial_key
        Key in ``obsm`` of the positions, shape ``(n_obs, 2)`` or ``(n_obs, 3)``.
    section_key
        Column of ``obs`` with the tissue section; ``None`` if there is only one. Neighbours are computed
        within sections; domains are shared by all sections.
    n_domains
        Number of domains. ``None`` chooses a number between 2 and 20 from the latent representation and its
        mean over the nearest spots: the knee of the Bayesian information criterion, see
        :func:`choose_n_domains`.
    smoothing
        ``"auto"`` smooths each latent dimension as far as the data supports it, see
        :func:`isovi.tl.smooth`. ``"rings"`` adds the means over rings of spatial neighbours (ring l: the
        spots exactly l steps away on the graph of nearest neighbours of its section) to the latent
        representation, whatever the data. ``None`` clusters the latent representation alone.
    n_rings
        Number of rings, 3 by default; a number implies ``smoothing="rings"``, and 0 implies ``None``.
    n_neighbors
        Number of neighbours of each spot on the spatial graph of the rings.
    key_added
        Name of the column of domains, categories ``"0"`` (most spots), ``"1"``, ... The same key in ``uns``
        contains the parameters; ``length`` and ``noise`` of each latent dimension if the data decided;
        ``candidates``, their ``stability`` and, if the number was chosen, their ``bic``, see
        :func:`choose_n_domains`; and ``coordinates_only``, the adjusted Rand index of the domains and
        :func:`coordinate_domains`: near 1, they are tiles rather than domains.
    seed
        Random seed of the mixture's initialisation.

    Raises
    ------
    InputError
        If a key is missing, the latent representation or the positions are not finite, or a number is out of
        range.

    Warns
    -----
    IsoviWarning
        If fewer domains than requested were found, because too few spots differ, or if ``obs[key_added]``
        exists and was not made by this function.
    """
    use_rep = _inputs.domain_rep(adata, use_rep)
    if key_added not in adata.uns:
        say_replaced(adata, obs=(key_added,))
    latent, spots = _inputs.latent_spots(adata, use_rep, spatial_key, section_key, None)
    _require_counts(n_domains, n_rings, seed, adata.n_obs)
    rings = _n_rings(smoothing, n_rings)
    graph = spatial_neighbors(spots.coordinates, spots.section, n_neighbors)
    features = standardize(ring_means(latent, graph, 1 if rings is None else rings))
    near = features[:, : 2 * latent.shape[1]]  # further rings distinguish edges, which would count
    if rings is None:
        smoothed = smooth(latent, spots.coordinates, spots.section, seed)
        features = standardize(smoothed.values)
        chosen: dict[str, Any] = {"smoothing": "auto", "length": smoothed.length, "noise": smoothed.noise}
    else:
        chosen = {"smoothing": "rings", "n_rings": rings, "n_neighbors": n_neighbors}
    candidates = None if n_domains is None else [n_domains]
    found = choose_n_domains(near, seed, candidates)
    codes = cluster(features, found["n_domains"], seed)
    tiles = coordinate_domains(spots.coordinates, found["n_domains"], seed)
    adata.obs[key_added] = _categorical(codes)
    section = {} if section_key is None else {"section_key": section_key}
    adata.uns[key_added] = {
        "use_rep": use_rep,
        "spatial_key": spatial_key,
        "seed": seed,
        **section,
        **chosen,
        **found,
        "coordinates_only": float(adjusted_rand_score(codes, tiles)),
    }


def _n_rings(smoothing: Smoothing, n_rings: int | None) -> int | None:
    """Number of rings, or ``None`` where the data decides."""
    if smoothing not in ("auto", "rings", None) or (smoothing is None and n_rings):
        raise InputError(
            f"smoothing={smoothing!r} and n_rings={n_rings}.",
            'smoothing must be "auto", "rings" or None, and without smoothing there are no rings.',
            'Use for example smoothing="rings" and n_rings=3.',
        )
    if smoothing is None:
        return 0
    return N_RINGS if smoothing == "rings" and n_rings is None else n_rings


def coordinate_domains(coordinates: ArrayLike, n_domains: int, seed: int = 0) -> NDArray[np.int64]:
    """Divide the tissue into tiles by k-means on the coordinates alone: what domains must be better than.

    Parameters
    ----------
    coordinates
        Shape ``(n, axes)``; of several sections, each centred. Tiles are shared by the sections. A spot
        without coordinates, alone in its section, is at the centre.
    n_domains
        Number of tiles, at most ``n``.
    seed
        Random seed of the initialisation.

    Returns
    -------
    Tile of each spot, shape ``(n,)``, in descending order of size.
    """
    places = np.nan_to_num(np.asarray(coordinates, dtype=np.float64))
    means = KMeans(n_domains, n_init=5, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different places than tiles
        means.fit(_subset(places, max(_FIT_SPOTS, n_domains), seed))
    return _by_size(means.predict(places))


def ring_means(values: ArrayLike, graph: Graph, n_rings: int) -> NDArray[np.float64]:
    """Concatenate values with their means over rings of neighbours.

    Parameters
    ----------
    values
        Shape ``(n, d)``.
    graph
        Connectivities, shape ``(n, n)``; directions and weights are ignored.
    n_rings
        Number of rings. Ring l contains the spots at graph distance exactly l.

    Returns
    -------
    Shape ``(n, (1 + n_rings) * d)``: the values, their mean over ring 1, over ring 2, ... If a ring is empty,
    the mean of the preceding ring is repeated.

    Examples
    --------
    >>> path = sparse.diags([1.0, 1.0], [-1, 1], shape=(3, 3)).tocsr()
    >>> ring_means([[0.0], [2.0], [6.0]], path, n_rings=2)
    array([[0., 2., 6.],
           [2., 3., 3.],
           [6., 2., 0.]])
    """
    blocks = [np.asarray(values, dtype=np.float64)]
    for ring in _rings(graph, n_rings):
        size = np.diff(ring.indptr)[:, None]
        blocks.append(np.where(size > 0, ring @ blocks[0] / np.maximum(size, 1), blocks[-1]))
    return np.hstack(blocks)


def _rings(graph: Graph, n_rings: int) -> list[sparse.csr_matrix]:
    """Binary matrices (n, n) of the spots at distance 1, 2, ... of each spot."""
    adjacency = _binary(graph + graph.T)
    ring = reached = sparse.identity(graph.shape[0], dtype=np.float32, format="csr")
    rings = []
    for _ in range(n_rings):
        further = _binary(ring @ adjacency)
        ring = _binary(further - further.multiply(reached))
        reached = _binary(reached + ring)
        rings.append(ring)
    return rings


def _binary(matrix: sparse.spmatrix | sparse.sparray) -> sparse.csr_matrix:
    result = sparse.csr_matrix(matrix, dtype=np.float32)
    result.eliminate_zeros()
    result.data[:] = 1
    return result


def standardize(features: ArrayLike) -> NDArray[np.float64]:
    """Scale each column of ``(n, d)`` to mean zero and variance one; constant columns become zero."""
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    spread = centred.std(axis=0)
    constant = spread <= 1e-12 * np.abs(features).max(initial=0.0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


def choose_n_domains(
    features: ArrayLike, seed: int = 0, candidates: ArrayLike | None = None
) -> dict[str, Any]:
    """Choose a number of domains by the knee of the Bayesian information criterion (BIC).

    Features of neighbouring spots are not independent, so the BIC itself keeps falling far beyond any useful
    number. With candidates and BIC both scaled to [0, 1], the knee is the candidate with the smallest sum of
    the two: few domains and low BIC (the kneedle rule of Satopää et al. 2011).

    Parameters
    ----------
    features
        Shape ``(n, d)``, with variance one; 3000 rows are drawn if there are more.
    seed
        Random seed of the draw and of the mixtures.
    candidates
        Numbers of domains. By default 2 to 20, with at least 10 spots per domain on average.

    Returns
    -------
    ``n_domains``, and the arrays ``candidates``, ``bic`` and ``stability``: how well mixtures fitted on two
    halves of the spots agree on all of them (adjusted Rand index, 1 if they agree). A number with low
    stability is not supported by the data.
    """
    chosen = _subset(np.asarray(features, dtype=np.float64), _CHOICE_SPOTS, seed)
    most = max(2, min(MAX_DOMAINS, len(chosen) // _SPOTS_PER_DOMAIN))
    numbers = np.arange(2, most + 1) if candidates is None else np.asarray(candidates)
    stability = np.array([_stability(chosen, int(n), seed) for n in numbers])
    if len(numbers) == 1:
        return {"n_domains": int(numbers[0]), "candidates": numbers, "stability": stability}
    bic = np.array([_fit(chosen, int(n), seed, n_init=2).bic(chosen) for n in numbers])
    knee = numbers[np.argmin(_unit(numbers) + _unit(bic))]
    return {"n_domains": int(knee), "candidates": numbers, "bic": bic, "stability": stability}


def _stability(features: NDArray, n_domains: int, seed: int) -> float:
    """Agreement on all spots of mixtures fitted on halves; NaN if a half has fewer spots than domains."""
    order = np.random.default_rng(seed).permutation(len(features))
    halves = order[::2], order[1::2]
    if len(halves[1]) < max(n_domains, 2):
        return float("nan")
    first, second = (_fit(features[half], n_domains, seed, n_init=2).predict(features) for half in halves)
    return float(adjusted_rand_score(first, second))


def _unit(values: NDArray) -> NDArray[np.float64]:
    return (values - values.min()) / max(np.ptp(values), np.finfo(float).tiny)


def cluster(features: ArrayLike, n_domains: int, seed: int = 0) -> NDArray[np.int64]:
    """Cluster with a Gaussian mixture with one shared covariance, the best of five initialisations.

    Parameters
    ----------
    features
        Shape ``(n, d)``, with variance one; the mixture is fitted on 20000 rows if there are more.
    n_domains
        Number of components, at most ``n``.
    seed
        Random seed of the initialisation.

    Returns
    -------
    Domain of each row, shape ``(n,)``, in descending order of size: 0 is the largest.
    """
    values = np.asarray(features, dtype=np.float64)
    mixture = _fit(_subset(values, _FIT_SPOTS, seed), n_domains, seed, n_init=5)
    codes = _by_size(mixture.predict(values))
    if (found := int(codes.max()) + 1) < n_domains:
        warnings.warn(
            f"{n_domains} domains were requested, but only {found} found: too few spots differ.",
            IsoviWarning,
            stacklevel=2,
        )
    return codes


def _fit(features: NDArray, n_components: int, seed: int, n_init: int) -> GaussianMixture:
    mixture = GaussianMixture(
        n_components,
        covariance_type="tied",
        reg_covar=_RIDGE,
        n_init=n_init,
        max_iter=300,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer domains are reported by `cluster`
        return mixture.fit(features)


def _subset(features: NDArray, size: int, seed: int) -> NDArray:
    if len(features) <= size:
        return features
    return features[np.sort(np.random.default_rng(seed).choice(len(features), size, replace=False))]


def _by_size(codes: NDArray) -> NDArray[np.int64]:
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse.reshape(-1)]


def _categorical(codes: NDArray) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, [str(code) for code in range(int(codes.max()) + 1)])


def _require_counts(n_domains: int | None, n_rings: int | None, seed: int, n_obs: int) -> None:
    if n_obs < 2 or not 1 <= (1 if n_domains is None else n_domains) <= n_obs:
        raise InputError(
            f"n_domains={n_domains} for {n_obs} spots.",
            "There must be at least two spots, at least one domain, and no more domains than spots.",
            "Use a number in this range, or None for an automatic choice.",
        )
    if (n_rings or 0) < 0 or not 0 <= seed <= _MAX_SEED:
        raise InputError(
            f"n_rings={n_rings} and seed={seed}.",
            f"n_rings must not be negative, and seed must be between 0 and {_MAX_SEED}.",
            "Use for example n_rings=3 and seed=0.",
        )
