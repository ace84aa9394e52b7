"""What of an input takes part in a fit: genes, spots in tissue, and counts that are whole numbers."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data import check, columns, decimals
from isovi.data.genes import listed, no_genes
from isovi.errors import InputError, IsoviWarning

RAW_LAYER = "raw"  # stands for adata.raw where there is no such layer
_OF_SEURAT = {"imagerow", "imagecol"}  # columns beside which "tissue" says whether a spot is in it


@dataclass(frozen=True, eq=False)
class Usable:
    """Genes and spots of an input that take part.

    Attributes
    ----------
    spots, genes
        Masks of shape ``(cell,)`` and ``(gene,)``.
    notes
        What is left out, with its number.
    """

    spots: np.ndarray
    genes: np.ndarray
    notes: tuple[str, ...]

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return bool(self.spots.all() and self.genes.all())

    def say(self) -> None:
        """Warn about everything that is left out."""
        for note in self.notes:
            warnings.warn(note, IsoviWarning, stacklevel=3)


def usable(
    adata: AnnData,
    *,
    layer: str | None = None,
    keep_controls: bool = False,
    spatial_key: str | None = None,
) -> Usable:
    """Genes and spots of an input that take part; nothing is changed.

    Control probes, blanks, codewords and features that are no genes are left out, and the spots whose
    ``obs["in_tissue"]`` is 0, those without a position, and cells that have counts in controls only.

    Parameters
    ----------
    adata
        The input, in memory or on disk.
    layer
        Layer of the counts; ``X`` by default.
    keep_controls
        Keep controls among the genes.
    spatial_key
        Key in ``obsm`` of the positions; where there are none, none is missing.

    Raises
    ------
    InputError
        If nothing would be left, or most spots have no position.
    """
    genes, notes = np.ones(adata.n_vars, dtype=bool), []
    if not keep_controls:
        genes = ~no_genes(adata.var)
    spots, note = _in_tissue(adata)
    notes += [note] if note else []
    if spatial_key is not None and spatial_key in adata.obsm:
        lost = spots & ~placed(adata, spatial_key, spots)
        spots = spots & ~lost
        what = f'have no position in obsm["{spatial_key}"] (NaN or infinite)'
        notes += [f"{int(lost.sum())} of {adata.n_obs} cells {what} and are left out."] if lost.any() else []
    if not genes.any():
        raise InputError(
            f"All {adata.n_vars} features are controls or of other kinds: {listed(adata.var_names)}.",
            "The model needs genes.",
            "Check adata.var, or keep them: keep_controls=True.",
        )
    if not genes.all():
        left = adata.var_names[~genes]
        notes.append(
            f"{len(left)} of {adata.n_vars} features are controls or no genes and are left out "
            f"({listed(left)}); keep_controls=True keeps them."
        )
        emptied = _emptied(adata, layer, genes) & spots
        if emptied.any():
            spots &= ~emptied
            notes.append(
                f"{int(emptied.sum())} of {adata.n_obs} cells have no count in genes and are left out."
            )
    return Usable(spots, genes, tuple(notes))


def placed(adata: AnnData, spatial_key: str, among: np.ndarray | None = None) -> np.ndarray:
    """Which spots have a position, finite in x, y, and in z unless it is empty throughout.

    Parameters
    ----------
    adata
        The input, in memory or on disk.
    spatial_key
        Key in ``obsm`` of the positions.
    among
        Mask of the spots that take part, shape ``(cell,)``; all by default.

    Returns
    -------
    Mask of shape ``(cell,)``.

    Raises
    ------
    InputError
        If the positions are no numbers, or more than half of the spots have none.
    """
    positions = check.numeric_positions(adata, spatial_key)
    if has_empty_z(positions):
        positions = positions[:, :2]
    known = np.isfinite(positions).all(axis=1)
    among = np.ones(len(known), dtype=bool) if among is None else among
    lost = among & ~known
    if 2 * lost.sum() > among.sum():
        where = f'adata.obsm["{spatial_key}"]'
        some = ", ".join(f'"{name}"' for name in adata.obs_names[lost][:3])
        raise InputError(
            f"{where} is NaN or infinite for {int(lost.sum())} of {int(among.sum())} spots: {some}, ...",
            "Spots without a position are left out, but not more than half of them.",
            "Choose another `spatial_key`, fill the positions in, or keep the others: "
            f"adata = adata[np.isfinite({where}).all(axis=1)].copy().",
        )
    return known


def has_empty_z(positions: np.ndarray) -> bool:
    """Whether a third column holds no number at all."""
    return positions.shape[1] == 3 and not np.isfinite(positions[:, 2]).any()


def without_empty_z(adata: AnnData, spatial_key: str) -> AnnData:
    """The data with x and y as positions if z is empty throughout; otherwise the same object.

    Warns
    -----
    IsoviWarning
        If it is.
    """
    if spatial_key not in adata.obsm or not has_empty_z(check.numeric_positions(adata, spatial_key)):
        return adata
    note = f'The third column of obsm["{spatial_key}"] is empty and is not used: positions are (x, y).'
    warnings.warn(note, IsoviWarning, stacklevel=3)
    adata, values = shallow_copy(adata), adata.obsm[spatial_key]
    adata.obsm[spatial_key] = values.iloc[:, :2] if isinstance(values, pd.DataFrame) else values[:, :2]
    return adata


def prepared(
    adata: AnnData,
    *,
    layer: str | None = None,
    keep_controls: bool = False,
    round_counts: bool = False,
    min_counts: int = 0,
    spatial_key: str = "spatial",
) -> AnnData:
    """Data in memory as a fit uses it; the same object if nothing is left out or changed.

    Parameters
    ----------
    adata
        The input; not changed.
    layer, keep_controls
        As for :func:`usable`. ``"raw"`` stands for ``adata.raw`` where no layer is called so.
    round_counts
        Round counts that were corrected for ambient RNA, or estimated.
    min_counts
        Cells with fewer counts are left out.
    spatial_key
        Key in ``obsm`` of the positions.

    Raises
    ------
    InputError
        If nothing would be left, most spots have no position, or the counts are not in memory.

    Warns
    -----
    IsoviWarning
        Gives the number of features, cells and values that are left out or rounded.
    """
    check.size(adata)
    _require_memory(adata, layer)
    adata = without_empty_z(adata, spatial_key)
    found = usable(adata, layer=layer, keep_controls=keep_controls, spatial_key=spatial_key)
    found.say()
    if not found.is_all:
        adata = adata[found.spots, found.genes].copy()
    adata = with_raw(adata, layer)
    return drop_cells(with_whole_counts(adata, layer, round_counts=round_counts), min_counts, layer)


def _require_memory(adata: AnnData, layer: str | None) -> None:
    """Refuse AnnData opened with ``backed``, and sparse counts that are to be computed (dask)."""
    if adata.isbacked or sparse.issparse(getattr(check.counts_of(adata, layer), "_meta", None)):
        where = f'on disk, in "{adata.filename}"' if adata.isbacked else "a sparse dask array"
        raise InputError(
            f"The counts of adata are {where}.",
            "Data that a fit is given is in memory, or opened from a packed store.",
            "Pass adata.to_memory(), or fit a packed store of the file: isovi pack.",
        )


def enough(counts: Any, min_counts: int) -> np.ndarray:
    """Mask of the cells with at least ``min_counts`` counts, shape ``(cell,)``.

    Raises
    ------
    InputError
        If there is no such cell.

    Warns
    -----
    IsoviWarning
        With the number of cells that are left out.
    """
    kept = check.cell_totals(counts) >= min_counts
    if len(kept) and not kept.any():
        raise InputError(
            f"None of {len(kept)} cells has {min_counts} counts.",
            "At least one cell is needed.",
            "Lower `min_counts`.",
        )
    if not kept.all():
        few = "no count" if min_counts == 1 else f"fewer than {min_counts} counts"
        left = f"{int((~kept).sum())} of {len(kept)} cells have {few} and are left out."
        warnings.warn(left, IsoviWarning, stacklevel=3)
    return kept


def drop_cells(adata: AnnData, min_counts: int = 1, layer: str | None = None) -> AnnData:
    """The cells with at least ``min_counts`` counts; the same object if all have.

    Parameters
    ----------
    adata
        Data in memory; not changed.
    min_counts
        Counts that a cell needs.
    layer
        Layer of the counts; ``X`` by default.

    Raises
    ------
    InputError
        If there is no such cell.
    """
    counts = check.counts_of(adata, layer)
    if min_counts <= 0 or counts is None or counts.dtype.kind not in "biuf":  # isovi.data.check says so
        return adata
    kept = enough(counts, min_counts)
    return adata if kept.all() else adata[kept].copy()


def with_raw(adata: AnnData, layer: str | None) -> AnnData:
    """The data with ``raw`` as a layer, if that is the layer meant."""
    if layer != RAW_LAYER or RAW_LAYER in adata.layers or adata.raw is None:
        return adata
    if not adata.var_names.isin(adata.raw.var_names).all():
        return adata
    adata = shallow_copy(adata)
    adata.layers[RAW_LAYER] = adata.raw[:, adata.var_names].X
    return adata


def with_whole_counts(adata: AnnData, layer: str | None, *, round_counts: bool = False) -> AnnData:
    """The data with whole numbers as counts: rounding noise is rounded, other decimals where it is asked for.

    Parameters
    ----------
    adata
        Data in memory; not changed.
    layer
        Layer of the counts; ``X`` by default.
    round_counts
        Whether corrected or estimated counts are rounded; normalised values never are.

    Returns
    -------
    The same object, or one that shares all but the counts.
    """
    counts = check.counts_of(adata, layer)
    if counts is None:  # reported by isovi.data.check
        return adata
    matrix = usual_form(counts)
    if is_to_round(matrix, round_counts=round_counts):
        matrix = decimals.rounded(matrix)
    if matrix is counts:
        return adata
    adata = shallow_copy(adata)
    if layer is None:
        adata.X = matrix
    else:
        adata.layers[layer] = matrix
    return adata


def usual_form(matrix: Any) -> Any:
    """The same values in a form that scvi-tools' loaders read; the matrix itself if it is one, or on disk.

    Sparse arrays become sparse matrices, which share their values; numbers that are kept as objects become
    numbers, and those of the other byte order, or longer than 64 bits, those of this machine.
    """
    if isinstance(matrix, sparse.sparray):
        matrix = (sparse.csc_matrix if matrix.format == "csc" else sparse.csr_matrix)(matrix)
    dtype = getattr(matrix, "dtype", None)
    if not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix)) or dtype is None:
        return matrix
    if dtype.kind == "O":
        with suppress(TypeError, ValueError):
            return matrix.astype(np.float64)
    if dtype == np.float16:  # which scipy lacks
        warnings.warn("Counts of type float16 are converted to float32, sparse.", IsoviWarning, stacklevel=2)
        parts = [sparse.csr_matrix(block.values) for block in check.blocks(matrix)]
        return sparse.vstack(parts, format="csr")
    if dtype.kind == "f" and dtype.itemsize > 8:
        return matrix.astype(np.float64)
    return matrix if dtype.isnative else matrix.astype(dtype.newbyteorder("="))


def is_to_round(matrix: Any, *, round_counts: bool = False) -> bool:
    """Whether a matrix of counts is to be rounded, in memory or on disk.

    Warns
    -----
    IsoviWarning
        With the number of values that are rounded.
    """
    if matrix.dtype.kind != "f":
        return False
    changed, before, after, noise = 0, 0.0, 0.0, True
    for block in check.blocks(matrix):
        values = np.asarray(block.stored, dtype=np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            return False
        noise = noise and decimals.is_noise(values)
        if not (noise or round_counts):
            return False
        changed += int((~decimals.is_whole(values)).sum())
        before, after = before + float(values.sum()), after + float(np.rint(values).sum())
    if not changed or not (noise or decimals.kind_of(sample(matrix)) == decimals.CORRECTED):
        return False
    why = "are whole numbers but for rounding" if noise else "are no whole numbers"
    total = "" if noise else f"; the sum of counts was {before:.6g} and is {after:.6g}"
    warnings.warn(
        f"{changed} values of the counts {why}: they are rounded{total}.", IsoviWarning, stacklevel=2
    )
    return True


def sample(matrix: Any) -> Any:
    """Some rows of a matrix, in memory or on disk."""
    return matrix[: decimals.SAMPLE]


def _in_tissue(adata: AnnData) -> tuple[np.ndarray, str]:
    every = np.ones(adata.n_obs, dtype=bool)
    known = columns.TISSUE | ({"tissue"} if set(map(columns.plain, adata.obs)) >= _OF_SEURAT else set())
    name = next((one for one in adata.obs if columns.plain(one) in known), None)
    if name is None:
        return every, ""
    column = adata.obs[name]
    said = columns.truth(column)
    if said is None or np.isnan(said).any():
        some = ", ".join(map(repr, pd.unique(column.astype(str))[:3]))
        return every, f'obs["{name}"] is not used: it holds {some}, where 0 and 1 are known.'
    inside = said == 1
    if not inside.any():
        raise InputError(
            f'obs["{name}"] is 0 for all {adata.n_obs} spots.',
            "Spots outside of the tissue are left out.",
            f'Remove the column if it means something else: del adata.obs["{name}"].',
        )
    n = int((~inside).sum())
    out = f"{n} of {adata.n_obs} spots are outside of the tissue ({name}) and are left out."
    return inside, out if n else ""


def _emptied(adata: AnnData, layer: str | None, genes: np.ndarray) -> np.ndarray:
    """Cells that have counts, but none in these genes."""
    counts = check.counts_of(adata, layer)
    if counts is None or counts.dtype.kind not in "biuf":
        return np.zeros(adata.n_obs, dtype=bool)
    return (check.cell_totals(counts) > 0) & (check.cell_totals(counts, genes) == 0)


def shallow_copy(adata: AnnData) -> AnnData:
    """The same data under tables of its own; matrices are shared."""
    parts = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "layers", "obsp", "varp", "uns")}
    parts["layers"].pop(None, None)  # anndata 0.13 lists X among the layers
    return AnnData(X=adata.X, obs=adata.obs.copy(), var=adata.var.copy(), raw=adata.raw, **parts)
