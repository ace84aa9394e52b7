"""The spots of a report: where they lie in tissue and in the latent, and what they can be coloured by."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from isovi.data.lognorm import TARGET_SUM, log_normalise
from isovi.geometry.hilbert import curve_order
from isovi.pl.latent_map import onto_tissue
from isovi.report.record import Channel, Views
from isovi.spots import SPLIT_KEY, Spots
from isovi.tl.metrics import morans_i_per_dimension, spatial_neighbors
from isovi.workflow.finished import GENE_KEY, LATENT_KEY, Run

N_SHOWN = 20_000  # spots that a browser shows and hovers over without delay
N_GENES = 30  # genes on offer, of the run's some thousand
_GENE_BLOCK = 100  # genes whose expression is dense at a time
_SYMBOLS = ("symbol", "gene_symbol", "gene_symbols", "gene_name", "feature_name")  # columns of var
_GAP = 0.08  # between sections, as a share of the largest
_SPLIT_NAMES = {"train": "training", "validation": "validation", "heldout": "held out"}
_ABOUT = {
    "domain": "Spatial domains found in the latent.",
    "distortion": "How far the spot's latent distances are from λ times its tissue distances, on average.",
    "stretch": "Positive where the latent holds the spot too far from the rest (a tear), negative where too "
    "near (a fold).",
    "anisotropy": "Longest over shortest axis of what a small circle of tissue becomes: 1 is round.",
    "latent": "Posterior mean of one latent dimension.",
    "gene": f"log1p of counts at a library size of {TARGET_SUM:,.0f}.",
    "split": "Held-out spots took no part in training.",
}


def spread(coordinates: NDArray, section: NDArray, n: int) -> NDArray[np.int64]:
    """At most `n` rows, in equal steps along a space-filling curve: each part of a section has its share."""
    if len(section) <= n:
        return np.arange(len(section))
    steps = np.linspace(0, len(section) - 1, n).round().astype(np.int64)
    return np.sort(curve_order(coordinates, section)[steps])


def views(run: Run, spots: Spots, label_key: str | None) -> tuple[Views, float]:
    """The spots to show, and R² of their latent view.

    Parameters
    ----------
    run
        A run in which :func:`isovi.tl.distortion_map` and :func:`isovi.tl.tissot` have been called.
    spots
        Where its spots are.
    label_key
        Column of ``obs`` with labels to offer as colours.
    """
    adata, rows = run.adata, spread(spots.coordinates, spots.section, N_SHOWN)
    tissue, sections = side_by_side(spots)
    latent, explained = onto_tissue(_latent(adata), spots.coordinates[:, :2].astype(np.float64))
    shown = Views(
        adata.obs_names.to_numpy()[rows].astype(str),
        tissue[rows].astype(np.float32),
        latent[rows].astype(np.float32),
        _diameter(tissue[rows]),
        sections,
        (
            *_groups(run, label_key, rows),
            *_geometry(adata, rows),
            *_components(adata, rows),
            *_genes(run, spots, rows),
        ),
    )
    return shown, explained


def side_by_side(spots: Spots) -> tuple[NDArray[np.float64], tuple[tuple[str, float, float], ...]]:
    """Positions with the sections in a grid, and the name of each with the place above it."""
    positions = spots.coordinates[:, :2].astype(np.float64)
    names = spots.sections
    codes = np.unique(spots.section)
    if len(codes) == 1:
        return positions, ()
    columns = int(np.ceil(np.sqrt(len(codes))))
    extents = np.array([np.ptp(positions[spots.section == code], axis=0) for code in codes])
    cell = extents.max(axis=0) * (1 + _GAP) + 2
    titles = []
    for number, code in enumerate(codes):
        members = spots.section == code
        here = positions[members]
        corner = np.array([number % columns, number // columns]) * cell
        positions[members] = here - here.min(axis=0) + corner + (cell - np.ptp(here, axis=0)) / 2
        top = positions[members].min(axis=0)
        titles.append((str(names[code]), float(corner[0] + cell[0] / 2), float(top[1] - 1)))
    return positions, tuple(titles)


def _latent(adata: AnnData) -> NDArray[np.float64]:
    return np.asarray(adata.obsm[LATENT_KEY], dtype=np.float64)


def _diameter(positions: NDArray) -> float:
    """Neighbouring spots nearly touch; cells in clusters stay visible."""
    if len(positions) < 2:
        return 1.0
    near = cKDTree(positions).query(positions, 2)[0][:, 1]
    even = np.sqrt(np.ptp(positions, axis=0).prod() / len(positions))
    return float(max(0.95 * np.median(near), 0.65 * even)) or 1.0


# ---------------------------------------------------------------------------- colourings


def _groups(run: Run, label_key: str | None, rows: NDArray) -> list[Channel]:
    """Domains, labels, sections and split, as far as there are such."""
    obs = run.adata.obs
    section_key = run.keys["section_key"]
    columns = {"domain": "isovi_domain", "label": label_key, "section": section_key, "split": SPLIT_KEY}
    found = []
    for name, key in columns.items():
        if key is not None and key in obs:
            label = f"{name} ({key})" if name in ("label", "section") else name
            found.append(_category(label, obs[key].iloc[rows], _ABOUT.get(name, "")))
    return found


def _category(label: str, column: pd.Series, about: str) -> Channel:
    """Codes of the categories that occur; what is missing is a category of its own, the last."""
    values = pd.Categorical(column).remove_unused_categories()
    names = [_SPLIT_NAMES.get(str(name), str(name)) for name in values.categories]
    codes = values.codes.astype(np.int64)
    if (codes < 0).any():
        codes, names = np.where(codes < 0, len(names), codes), [*names, "missing"]
    kind = np.uint8 if len(names) <= 256 else np.uint16
    return Channel(
        label, "Groups", "category", codes.astype(kind), -0.5, len(names) - 0.5, tuple(names), about
    )


def _geometry(adata: AnnData, rows: NDArray) -> list[Channel]:
    distortion, stretch, anisotropy = (
        adata.obs[name].to_numpy(dtype=np.float32)[rows]
        for name in ("isovi_distortion", "isovi_distortion_stretch", "isovi_tissot_anisotropy")
    )
    high, reach = _quantile(distortion, 0.98), _quantile(np.abs(stretch), 0.98)
    return [
        Channel(
            "relative distortion",
            "Geometry",
            "sequential",
            distortion,
            0.0,
            high,
            about=_ABOUT["distortion"],
        ),
        Channel("stretch", "Geometry", "diverging", stretch, -reach, reach, about=_ABOUT["stretch"]),
        Channel("anisotropy", "Geometry", "anisotropy", anisotropy, 1.0, 4.0, about=_ABOUT["anisotropy"]),
    ]


def _components(adata: AnnData, rows: NDArray) -> list[Channel]:
    latent = _latent(adata)[rows].astype(np.float32)
    return [
        _numbers(f"latent {number + 1}", "Latent dimensions", latent[:, number], 0.01, _ABOUT["latent"])
        for number in range(latent.shape[1])
    ]


def _numbers(label: str, group: str, values: NDArray, trimmed: float, about: str) -> Channel:
    low, high = _quantile(values, trimmed), _quantile(values, 1 - trimmed)
    return Channel(label, group, "sequential", values, low, high if high > low else low + 1.0, about=about)


def _quantile(values: NDArray, share: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share)) if len(known) and known.any() else 1.0


def _genes(run: Run, spots: Spots, rows: NDArray) -> list[Channel]:
    """Expression of the run's genes that are smoothest in tissue, by Moran's I of the shown spots."""
    expression = _expression(run, rows)
    if expression is None:
        return []
    matrix, names = expression
    graph = spatial_neighbors(spots.coordinates[rows], spots.section[rows])
    smooth = [
        morans_i_per_dimension(matrix[:, start : start + _GENE_BLOCK].toarray(), graph)
        for start in range(0, matrix.shape[1], _GENE_BLOCK)
    ]
    order = np.argsort(-np.nan_to_num(np.concatenate(smooth), nan=-1.0), kind="stable")[:N_GENES]
    group = "Genes, smoothest in tissue first"
    return [
        _numbers(names[gene], group, matrix[:, [gene]].toarray().ravel(), 0.01, _ABOUT["gene"])
        for gene in order
    ]


def _expression(run: Run, rows: NDArray) -> tuple[sparse.csc_matrix, list[str]] | None:
    """Log-normalised expression of the run's genes, float32, and their names; ``None`` without counts."""
    layer = run.adata.uns["isovi"].get("layer")
    counts = run.adata.X if layer is None else run.adata.layers.get(str(layer))
    if counts is None:
        return None
    expression = log_normalise(sparse.csr_matrix(counts[rows]))
    used = np.flatnonzero(run.adata.var[GENE_KEY].to_numpy(dtype=bool))
    return sparse.csc_matrix(expression[:, used], dtype=np.float32), _gene_names(run.adata.var.iloc[used])


def _gene_names(genes: pd.DataFrame) -> list[str]:
    """Names of genes; symbols that stand beside them, as in 10x's files, come first."""
    names = genes.index.astype(str).tolist()
    column = next((name for name in _SYMBOLS if name in genes), None)
    if column is None:
        return names
    return [
        f"{symbol} ({name})" if str(symbol) not in ("", "nan", name) else name
        for symbol, name in zip(genes[column].astype(str), names, strict=True)
    ]
