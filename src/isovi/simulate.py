"""Simulated tissues with known geometry: positions, domains, and negative binomial counts."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.special import ndtri

from isovi.errors import InputError

Array = np.ndarray

KINDS = ("layers", "blobs", "ring")
MIN_OBS, MIN_GENES = 10, 2
_ASPECT = 1.4  # width of the layered tissue over its height
_HOLE = 0.45  # inner over outer radius of the ring
_SOFTNESS = 0.04  # width of the borders between domains, in tissue units (the ring: radians)
_N_STATES = 2
_BASE_MEDIAN, _BASE_SPREAD = 0.15, 1.6  # of the genes' mean counts: median, standard deviation of logs
_STRENGTHS = {"domain": (1.2, 2.4), "gradient": (0.6, 1.4), "state": (0.4, 0.9)}  # loadings
_ROLES = ("domain", "gradient", "noise", "domain", "state", "domain", "noise", "gradient", "domain", "noise")


def simulate(
    kind: str = "layers",
    n_obs: int = 1000,
    n_genes: int = 300,
    n_sections: int = 1,
    *,
    seed: int = 0,
    n_domains: int = 6,
    spacing: float = 100.0,
    jitter: float = 0.1,
    depth: float = 1.0,
    theta: float = 3.0,
) -> AnnData:
    r"""Simulate spatial transcriptomics of a tissue with known geometry.

    Spots lie on a hexagonal grid with small random displacements. The mean count of spot :math:`i` and
    gene :math:`g` is :math:`\mu_{ig} = l_i \exp(b_g + \sum_k P_{ik} W_{kg})` with a lognormal library
    size :math:`l`, the programmes :math:`P` and few loadings :math:`W`; counts are negative binomial
    with variance :math:`\mu + \mu^2 / \theta`. Each gene has one role: it marks a domain, follows a
    gradient across the tissue, follows a cell state that is independent of position, or is noise
    around a constant. Sections share domains, gradients and genes; each has its own grid, rotation,
    offset and sequencing depth. With the defaults a spot has about 200 counts (proportional to the
    number of genes) and three quarters of the entries are zero.

    If a spot or a gene has no counts, its entry with the highest mean is set to 1, so there are no
    empty spots or genes.

    Parameters
    ----------
    kind
        ``"layers"``: a rectangle of bent bands, as in cortex. ``"blobs"``: a disc of smooth patches, where
        one domain may consist of several patches. ``"ring"``: an annulus divided into sectors.
    n_obs
        Total number of spots, divided evenly among the sections; at least 10 per section.
    n_genes
        Number of genes, at least 2.
    n_sections
        Number of tissue sections.
    seed
        Random seed. The same seed and arguments give the same counts, bit for bit.
    n_domains
        Number of domains, at least 2; domains without spots are not in ``obs["domain"]``.
    spacing
        Distance between neighbouring grid points, in micrometres.
    jitter
        Largest displacement of a spot, in spacings, from 0 to below 0.5, so no two spots of a section
        coincide.
    depth
        Factor that multiplies all means.
    theta
        Inverse dispersion of the negative binomial.

    Returns
    -------
    AnnData with

    - ``X``: counts, CSR float32, (n_obs, n_genes);
    - ``obsm["spatial"]``: positions in micrometres, (n_obs, 2);
    - ``obsm["X_truth"]``: the noise-free programmes :math:`P`, (n_obs, n_programmes);
    - ``obs["domain"]``, ``obs["section"]``: categories; ``obs["true_size"]``: :math:`l`, with all depths;
    - ``var["role"]``: ``"domain"``, ``"gradient"``, ``"state"`` or ``"noise"``;
    - ``var["true_base"]``: :math:`b`;
    - ``varm["true_loadings"]``: :math:`W^T`, (n_genes, n_programmes);
    - ``uns["isovi_simulation"]``: the arguments, the names of the programmes, and per section the
      rotation (radians), offset (micrometres) and depth.

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> adata = simulate("ring", n_obs=200, n_genes=50, seed=1)
    >>> adata.shape, adata.obsm["spatial"].shape
    ((200, 50), (200, 2))
    """
    arguments = dict(locals())
    _check_arguments(kind, n_obs, n_genes, n_sections, seed, n_domains)
    _check_numbers(spacing=spacing, jitter=jitter, depth=depth, theta=theta)
    place_rng, tissue_rng, spot_rng, gene_rng, count_rng = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(5)
    )
    sections = _draw_sections(kind, n_obs, n_sections, spacing, jitter, place_rng)
    programmes = _draw_programmes(kind, np.concatenate([s.inside for s in sections]), n_domains, tissue_rng)
    sizes = depth * np.concatenate([s.depth * spot_rng.lognormal(0.0, 0.35, len(s.inside)) for s in sections])
    genes = _draw_genes(n_genes, programmes.names, gene_rng)
    counts = _draw_counts(programmes.values, genes, sizes, theta, count_rng)
    adata = _assemble(counts, sections, programmes, sizes, genes)
    adata.uns["isovi_simulation"] = {
        **arguments,
        "programmes": np.array(programmes.names),
        "rotation": np.array([s.rotation for s in sections]),
        "offset": np.stack([s.offset for s in sections]),
        "section_depth": np.array([s.depth for s in sections]),
    }
    return adata


def _check_arguments(kind: str, n_obs: int, n_genes: int, n_sections: int, seed: int, n_domains: int) -> None:
    if kind not in KINDS:
        raise InputError(f'kind is "{kind}".', f"The kinds are {', '.join(KINDS)}.", "Use one of these.")
    _check_whole("n_sections", n_sections, 1)
    _check_whole("n_obs", n_obs, MIN_OBS * n_sections, f" ({MIN_OBS} for each section)")
    _check_whole("n_genes", n_genes, MIN_GENES)
    _check_whole("n_domains", n_domains, 2)
    _check_whole("seed", seed, 0)


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        valid = 0 <= value < 0.5 if name == "jitter" else 0 < value < np.inf
        if not valid:
            rule = "at least 0 and below 0.5" if name == "jitter" else "positive and finite"
            raise InputError(f"{name} is {value}.", f"It must be {rule}.", f"Use another value of {name}.")


def _check_whole(name: str, value: Any, least: int, why: str = "") -> None:
    try:
        enough = operator.index(value) >= least
    except TypeError:
        enough = False
    if not enough:
        rule = f"It must be an integer of at least {least}{why}."
        raise InputError(f"{name} is {value}.", rule, f"Use another value of {name}.")


# ---------------------------------------------------------------------------- positions


@dataclass(frozen=True)
class _Section:
    """Spots of one section: their positions in the tissue and on the slide."""

    inside: Array  # (n, 2), in tissue units: half the height, or the outer radius
    positions: Array  # (n, 2), micrometres
    rotation: float  # radians
    offset: Array  # (2,), micrometres
    depth: float  # factor on library sizes


def _draw_sections(
    kind: str, n_obs: int, n_sections: int, spacing: float, jitter: float, rng: np.random.Generator
) -> list[_Section]:
    share, rest = divmod(n_obs, n_sections)
    spots = [share + (section < rest) for section in range(n_sections)]
    return [_draw_section(kind, n, spacing, jitter, rng, first=i == 0) for i, n in enumerate(spots)]


def _draw_section(
    kind: str, n: int, spacing: float, jitter: float, rng: np.random.Generator, *, first: bool
) -> _Section:
    unit = np.sqrt(n * np.sqrt(3) / 2 / _area(kind))  # spacings in a tissue unit
    grid = _hexagons(2 * unit + 5) + rng.uniform(-0.5, 0.5, 2)
    nearest = np.argsort(_reach(kind, grid / unit), kind="stable")[:n]
    points = _jittered(grid[np.sort(nearest)], jitter, rng)
    rotation, depth = rng.uniform(-np.pi / 4, np.pi / 4), rng.lognormal(0.0, 0.25)
    offset = spacing * rng.uniform(-5.0, 5.0, 2)
    if first:  # the first section is not transformed
        rotation, offset, depth = 0.0, np.zeros(2), 1.0
    turn = np.array([[np.cos(rotation), np.sin(rotation)], [-np.sin(rotation), np.cos(rotation)]])
    return _Section(points / unit, spacing * points @ turn + offset, rotation, offset, depth)


def _area(kind: str) -> float:
    """Area of the tissue, in squared tissue units."""
    return {"layers": 4 * _ASPECT, "blobs": np.pi, "ring": np.pi * (1 - _HOLE**2)}[kind]


def _reach(kind: str, inside: Array) -> Array:
    """Distance from the centre, relative to the border of the tissue: 1 on the rim, infinite in the hole."""
    x, y = np.abs(inside).T
    if kind == "layers":
        return np.maximum(x / _ASPECT, y)
    radius = np.hypot(x, y)
    return radius if kind == "blobs" else np.where(radius < _HOLE, np.inf, radius)


def _hexagons(half_width: float) -> Array:
    """Points of a hexagonal grid with spacing 1 around the origin, row by row."""
    n = int(np.ceil(half_width))
    rows, columns = (axis.ravel() for axis in np.mgrid[-n : n + 1, -n : n + 1])
    return np.stack([columns + rows % 2 / 2, rows * np.sqrt(3) / 2], axis=1)


def _jittered(points: Array, jitter: float, rng: np.random.Generator) -> Array:
    angle, radius = rng.uniform(0, 2 * np.pi, len(points)), jitter * np.sqrt(rng.uniform(size=len(points)))
    return points + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


# ---------------------------------------------------------------------------- programmes


@dataclass(frozen=True)
class _Programmes:
    """Noise-free activity of each programme in each spot."""

    values: Array  # (n_obs, n_programmes)
    names: list[str]
    domain: Array  # (n_obs,), the domain with the largest membership


def _draw_programmes(kind: str, inside: Array, n_domains: int, rng: np.random.Generator) -> _Programmes:
    logits = {"layers": _layers, "blobs": _blobs, "ring": _sectors}[kind](inside, n_domains, rng)
    memberships = np.exp(logits - logits.max(axis=1, keepdims=True))
    memberships /= memberships.sum(axis=1, keepdims=True)
    gradients = _gradients(kind, inside)
    states = rng.standard_normal((len(inside), _N_STATES))
    names = [f"domain_{d}" for d in range(n_domains)] + list(gradients)
    names += [f"state_{s}" for s in range(_N_STATES)]
    values = np.column_stack([memberships, *gradients.values(), states])
    return _Programmes(values, names, logits.argmax(axis=1))


def _layers(inside: Array, n_domains: int, rng: np.random.Generator) -> Array:
    """Bent bands of unequal width, one above the other: log memberships up to a constant."""
    x, y = inside.T
    height = y + 0.12 * np.sin(2 * x + rng.uniform(0, 2 * np.pi))
    borders = 2 * np.cumsum(rng.dirichlet(np.full(n_domains, 8.0)))[:-1] - 1
    steps = (height[:, None] - borders) / _SOFTNESS
    return np.column_stack([np.zeros(len(inside)), np.cumsum(steps, axis=1)])


def _blobs(inside: Array, n_domains: int, rng: np.random.Generator, waves: int = 32) -> Array:
    """Smooth random fields, one per domain; a spot belongs to the highest."""
    frequencies = rng.normal(0.0, 1 / 0.4, (n_domains, 2, waves))
    phases = rng.uniform(0, 2 * np.pi, (n_domains, 1, waves))
    x, y = inside.T[..., None]
    waves_of = zip(frequencies, phases, strict=True)
    fields = np.stack([np.cos(x * k[0] + y * k[1] + phase).sum(axis=1) for k, phase in waves_of])
    fields -= fields.mean(axis=1, keepdims=True)  # domains of about the same size
    fields /= fields.std(axis=1, keepdims=True)
    return fields.T / (4 * _SOFTNESS)


def _sectors(inside: Array, n_domains: int, rng: np.random.Generator) -> Array:
    """Sectors of a ring around approximately evenly spaced directions."""
    angle = np.arctan2(inside[:, 1], inside[:, 0])[:, None]
    centres = 2 * np.pi * (np.arange(n_domains) + rng.uniform(-0.2, 0.2, n_domains)) / n_domains
    return np.cos(angle - centres) / (2 * _SOFTNESS * np.sin(np.pi / n_domains))


def _gradients(kind: str, inside: Array) -> dict[str, Array]:
    """Gradients across the whole tissue, from about -1 to 1."""
    x, y = inside.T
    if kind == "ring":
        radius = np.hypot(x, y)
        return {"cosine": x / radius, "sine": y / radius, "radius": (2 * radius - 1 - _HOLE) / (1 - _HOLE)}
    return {"x": x / (_ASPECT if kind == "layers" else 1.0), "y": y}


# ---------------------------------------------------------------------------- genes and counts


@dataclass(frozen=True)
class _Genes:
    """Role, base expression and loadings of each gene."""

    roles: list[str]
    base: Array  # (n_genes,), log mean count at no activity and size 1
    loadings: Array  # (n_genes, n_programmes)


def _draw_genes(n_genes: int, names: list[str], rng: np.random.Generator) -> _Genes:
    kinds = [name.split("_")[0] for name in names]
    columns = {role: [i for i, kind in enumerate(kinds) if kind == role] for role in ("domain", "state")}
    columns["gradient"] = [i for i, kind in enumerate(kinds) if kind not in columns]
    roles = [_ROLES[gene % len(_ROLES)] for gene in range(n_genes)]
    loadings = np.zeros((n_genes, len(names)))
    for role, own in columns.items():
        genes = np.array([gene for gene in range(n_genes) if roles[gene] == role], dtype=int)
        low, high = _STRENGTHS[role]
        signs = 1.0 if role == "domain" else rng.choice([-1.0, 1.0], len(genes))
        loadings[genes, np.resize(own, len(genes))] = signs * rng.uniform(low, high, len(genes))
    ranks = (rng.permutation(n_genes) + 0.5) / n_genes  # quantiles, so totals hardly depend on the seed
    return _Genes(roles, np.log(_BASE_MEDIAN) + _BASE_SPREAD * ndtri(ranks), loadings)


def _draw_counts(
    activity: Array, genes: _Genes, sizes: Array, theta: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Negative binomial counts, gene by gene: no dense array is larger than a column."""
    top_mean, top_gene = np.zeros(len(sizes)), np.zeros(len(sizes), dtype=int)
    rows, values = [], []
    for gene, loadings in enumerate(genes.loadings):
        mean = _mean(activity, loadings, genes.base[gene], sizes)
        higher = mean > top_mean
        top_mean[higher], top_gene[higher] = mean[higher], gene
        column = rng.poisson(rng.gamma(theta, mean / theta))
        if not column.any():
            column[mean.argmax()] = 1
        rows.append(np.flatnonzero(column).astype(np.int32))
        values.append(column[rows[-1]].astype(np.float32))
    starts = np.cumsum([0, *map(len, rows)])
    shape = (len(sizes), len(genes.base))
    counts = sparse.csc_matrix((np.concatenate(values), np.concatenate(rows), starts), shape=shape).tocsr()
    empty = np.flatnonzero(np.diff(counts.indptr) == 0)
    ones = np.ones(len(empty), dtype=np.float32)
    return counts + sparse.csr_matrix((ones, (empty, top_gene[empty])), shape=counts.shape)


def _mean(activity: Array, loadings: Array, base: float, sizes: Array) -> Array:
    """Means of one gene. There is no matrix product, whose rounding may depend on the number of threads."""
    log_mean = np.full(len(sizes), base)
    for programme in np.flatnonzero(loadings):
        log_mean += loadings[programme] * activity[:, programme]
    return sizes * np.exp(log_mean)


def _assemble(
    counts: sparse.csr_matrix, sections: list[_Section], programmes: _Programmes, sizes: Array, genes: _Genes
) -> AnnData:
    section = np.repeat([f"section_{i}" for i in range(len(sections))], [len(s.inside) for s in sections])
    domain = np.array([f"domain_{d}" for d in programmes.domain])
    obs = pd.DataFrame(
        {"section": pd.Categorical(section), "domain": pd.Categorical(domain), "true_size": sizes},
        index=[f"spot_{i:05d}" for i in range(len(sizes))],
    )
    var = pd.DataFrame(
        {"role": pd.Categorical(genes.roles), "true_base": genes.base},
        index=[f"gene_{i:05d}" for i in range(len(genes.base))],
    )
    return AnnData(
        X=counts,
        obs=obs,
        var=var,
        obsm={"spatial": np.concatenate([s.positions for s in sections]), "X_truth": programmes.values},
        varm={"true_loadings": genes.loadings},
    )
