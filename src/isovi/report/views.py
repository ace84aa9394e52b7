"""The interactive views of a report: where spots lie in tissue and latent, and what colours them."""

from __future__ import annotations

import io
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from isovi.pl import _data, _image
from isovi.report.record import Channel, Image, Scale, ScaleBar, Views
from isovi.run import DOMAIN_KEY, GENE_KEY, LATENT_KEY, PARTS, Run
from isovi.spots import SPLIT_KEY
from isovi.tl.metrics import morans_i_per_dimension, spatial_neighbors

N_SHOWN = 20_000  # spots that a browser shows and hovers over without delay
N_GENES = 30  # genes on offer, of the run's some thousand
_GENE_BLOCK = 100  # genes whose expression is dense at a time
_LIBRARY = 1e4
_IMAGE_SIDE = 1_600  # pixels of the longest side of all pictures, at most
_IMAGE_BYTES = 1_000_000  # of all pictures
_QUALITY = 85  # of JPEG
_PARTS = {part: key for key, part in PARTS.items()}  # in obsm, of a latent in two parts
Expression: TypeAlias = tuple[sparse.csc_matrix, list[str]]
_SYMBOLS = ("symbol", "gene_symbol", "gene_symbols", "gene_name", "feature_name")  # columns of var
_SPLIT_NAMES = {"train": "training", "validation": "validation", "heldout": "held out"}
_ABOUT = {
    "domain": "Spatial domains found in the latent representation.",
    "relative distortion": "Mean difference of a spot's latent distances from λ times its tissue distances.",
    "stretch": "Positive where the latent representation has the spot too far from the rest (a tear), "
    "negative where too near (a fold).",
    "anisotropy": "Longest over shortest axis of what a small circle of tissue becomes: 1 is round.",
    "latent": "Posterior mean of one latent dimension.",
    "gene": "log1p of counts at a library size of 10,000.",
    "split": "Held-out spots took no part in training.",
}


def shown_rows(run: Run) -> NDArray[np.int64]:
    """The spots that are shown, spread evenly."""
    return _data.spread(run.spots.coordinates, run.spots.section, N_SHOWN)


def views(run: Run, rows: NDArray[np.int64], expression: Expression | None) -> tuple[Views, float]:
    """The spots to show, and R² of their latent view.

    Parameters
    ----------
    run
        A run in which :func:`isovi.tl.distortion_map` and :func:`isovi.tl.tissot` have been called.
    rows
        The spots to show.
    expression
        Of these spots: see :func:`expression_of`.
    """
    adata, spots = run.adata, run.spots
    tissue, sections = _data.side_by_side(spots)
    latent, explained = _data.onto_tissue(_latent(adata), spots.coordinates[:, :2])
    images, bars = _pictures(run, tissue)
    several = len(spots.sections) > 1
    shown = Views(
        adata.obs_names.to_numpy()[rows].astype(str),
        tissue[rows].astype(np.float32),
        latent[rows].astype(np.float32),
        _data.diameter(tissue[rows]),
        sections,
        (
            *_groups(run, rows),
            *_geometry(adata, rows),
            *_components(adata, rows),
            *_genes(run, expression, rows),
        ),
        rows=rows,
        section=spots.section[rows] if several else None,
        section_names=tuple(spots.sections) if several else (),
        parts=_parts(run, rows),
        images=images,
        bars=bars,
    )
    return shown, explained


def _latent(adata: AnnData) -> NDArray[np.float64]:
    return np.asarray(adata.obsm[LATENT_KEY], dtype=np.float64)


def _parts(run: Run, rows: NDArray) -> tuple[tuple[str, NDArray[np.float32]], ...]:
    """Views of the place and the identity part, where the latent representation has both."""
    obsm = run.adata.obsm
    if not all(key in obsm and np.ndim(obsm[key]) == 2 and obsm[key].shape[1] for key in _PARTS.values()):
        return ()
    tissue = run.spots.coordinates[:, :2]
    placed = {name: _data.onto_tissue(np.asarray(obsm[key], float), tissue) for name, key in _PARTS.items()}
    return tuple((name, one[rows].astype(np.float32)) for name, (one, _) in placed.items())


# ---------------------------------------------------------------------------- pictures


def _pictures(run: Run, tissue: NDArray) -> tuple[tuple[Image, ...], tuple[ScaleBar, ...]]:
    """Pictures under the tissue view and scale bars, section by section, as far as there are such."""
    spots, images, bars = run.spots, [], []
    positions, alone = spots.positions[:, :2], len(spots.sections) == 1
    for code, name in enumerate(spots.sections):
        members = np.flatnonzero((spots.section == code) & spots.placed)
        if not len(members):
            continue
        unit, first = float(spots.unit[code]), members[0]
        origin = positions[first] - unit * tissue[first]  # position of the view's zero
        low, high = positions[members].min(axis=0) - unit, positions[members].max(axis=0) + unit
        found = _image.picture(run.adata, name, alone=alone)
        if found is not None and found.shows(low, high):
            part, (left, right, bottom, top) = found.cropped(low, high)
            x, y = ((np.array([left, top]) - origin) / unit).tolist()
            jpeg, reduced = _jpeg(part, len(spots.sections))
            images.append(Image(jpeg, x, y, (right - left) / unit, (bottom - top) / unit, reduced))
        if microns := _image.microns(run.adata, unit, name, alone=alone):
            width = float(high[0] - low[0])
            length, words = _image.bar(width, microns)
            corner = (np.array([low[0], high[1]]) - origin) / unit
            bars.append(ScaleBar(float(corner[0]), float(corner[1]), length / unit, words))
    return tuple(images), tuple(bars)


def _jpeg(pixels: NDArray[np.uint8], n: int) -> tuple[bytes, float]:
    """A picture of a share of the bytes of `n`, and by what it was reduced for that."""
    from PIL import Image as Pillow

    whole = Pillow.fromarray(pixels)
    side = min(max(whole.size), int(_IMAGE_SIDE / np.sqrt(n)))
    while True:
        reduced = max(whole.size) / side
        small = whole.resize([max(1, round(one / reduced)) for one in whole.size], Pillow.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_QUALITY)
        if buffer.tell() <= _IMAGE_BYTES / n or side <= 64:
            return buffer.getvalue(), reduced
        side = int(side * 0.8)


# ---------------------------------------------------------------------------- colourings


def _groups(run: Run, rows: NDArray) -> list[Channel]:
    """Domains, labels, sections and split, as far as there are such."""
    adata, settings = run.adata, run.settings
    columns = {
        "domain": DOMAIN_KEY,
        "label": settings.label_key,
        "section": settings.section_key,
        "split": SPLIT_KEY,
    }
    found = []
    for name, key in columns.items():
        if key is not None and key in adata.obs:
            label = f"{name} ({key})" if name in ("label", "section") else name
            stored = adata.uns.get(f"{key}_colors", ())
            found.append(_category(label, _data.groups(adata.obs[key], stored), rows, _ABOUT.get(name, "")))
    return found


def _category(label: str, found: _data.Groups, rows: NDArray, about: str) -> Channel:
    names = tuple(_SPLIT_NAMES.get(name, name) if label == "split" else name for name in found.names)
    codes = found.codes[rows].astype(np.uint8 if len(names) <= 256 else np.uint16)
    return Channel(
        label, "Groups", "category", codes, -0.5, len(names) - 0.5, names, found.colors, about=about
    )


def _geometry(adata: AnnData, rows: NDArray) -> list[Channel]:
    distortion, stretch, anisotropy = (
        adata.obs[name].to_numpy(dtype=np.float32)
        for name in ("isovi_distortion", "isovi_distortion_stretch", "isovi_tissot_anisotropy")
    )
    kinds: tuple[tuple[str, Scale, NDArray, tuple[float, float]], ...] = (
        ("relative distortion", "sequential", distortion, _data.upwards(distortion)),
        ("stretch", "diverging", stretch, _data.around(stretch, 0.0)),
        ("anisotropy", "anisotropy", anisotropy, _data.ANISOTROPY),
    )
    return [
        Channel(label, "Geometry", scale, values[rows], *ends, about=_ABOUT[label])
        for label, scale, values, ends in kinds
    ]


def _components(adata: AnnData, rows: NDArray) -> list[Channel]:
    group, about = "Latent dimensions", _ABOUT["latent"]
    return [
        Channel(f"latent {number}", group, "diverging", values[rows], *_data.around(values), about=about)
        for number, values in enumerate(_latent(adata).astype(np.float32).T, start=1)
    ]


def _genes(run: Run, expression: Expression | None, rows: NDArray) -> list[Channel]:
    """Expression of the run's genes that are smoothest in tissue, by Moran's I of the shown spots."""
    if expression is None:
        return []
    matrix, names = expression
    graph = spatial_neighbors(run.spots.coordinates[rows], run.spots.section[rows])
    smooth = [
        morans_i_per_dimension(matrix[:, start : start + _GENE_BLOCK].toarray(), graph)
        for start in range(0, matrix.shape[1], _GENE_BLOCK)
    ]
    order = np.argsort(-np.nan_to_num(np.concatenate(smooth), nan=-1.0), kind="stable")[:N_GENES]
    group, about = "Genes, smoothest in tissue first", _ABOUT["gene"]
    shown = {names[gene]: matrix[:, [gene]].toarray().ravel() for gene in order}
    return [
        Channel(name, group, "sequential", values, *_data.between(values), about=about)
        for name, values in shown.items()
    ]


def expression_of(run: Run, rows: NDArray) -> Expression | None:
    """log1p of scaled counts of the run's genes, float32, and their names; ``None`` if it keeps no counts."""
    layer = run.settings.layer
    counts = run.adata.X if layer is None else run.adata.layers.get(layer)
    if counts is None:
        return None
    mine = sparse.csr_matrix(counts[rows]).astype(np.float32)
    total = np.asarray(mine.sum(axis=1)).ravel()
    scaled = sparse.diags((_LIBRARY / np.maximum(total, 1)).astype(np.float32)) @ mine
    used = np.flatnonzero(run.adata.var[GENE_KEY].to_numpy(dtype=bool))
    return sparse.csc_matrix(scaled)[:, used].log1p(), _gene_names(run.adata.var.iloc[used])


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
