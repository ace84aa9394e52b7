"""Count matrices written by the pipelines of 10x Genomics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData
from scipy import sparse

from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.market import parts_of, read_market
from isovi.data.readers.positions import Joined
from isovi.data.readers.source import named, readable
from isovi.data.readers.tenx import read_h5
from isovi.data.usable import drop_cells
from isovi.errors import IsoviWarning


@dataclass(frozen=True)
class Matrix(Joined):
    """A 10x matrix, with or without a table of positions.

    Attributes
    ----------
    path
        ``.h5`` file, or folder with ``matrix.mtx.gz``.
    coordinates
        Table of positions, if any.
    """

    kind = "10x matrix"

    def read(self) -> AnnData:
        """Counts of the genes in the cells that have a position."""
        return self.sign(drop_cells(self.joined(read_matrix(self.path))))


def find_matrix(folder: Path, *stems: str) -> Path | None:
    """The first matrix in a folder of these names, as one file or a folder; names may have a prefix."""
    for stem in stems:
        if (file := named(folder, f"{stem}.h5")) is not None:
            return file
        if (parts := named(folder, stem)) is not None and any(parts.glob("*matrix.mtx*")):
            return parts
    return None


def read_matrix(path: Path) -> AnnData:
    """Cells and features of a matrix, control probes among them; see :mod:`isovi.data.genes`.

    Parameters
    ----------
    path
        ``.h5`` file, or folder with ``matrix.mtx.gz``.

    Returns
    -------
    Counts as CSR in canonical form, gene symbols as names and Ensembl ids in ``var["gene_ids"]``.

    Raises
    ------
    InputError
        If it cannot be read.

    Warns
    -----
    IsoviWarning
        If names of genes repeat: they get numbers, as in scanpy.
    """
    with readable(path, "a 10x matrix"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique.*")
        if path.is_dir():
            whole = list(parts_of(path).values())
            if len(whole) != 1:
                raise ValueError("matrix.mtx, barcodes.tsv and features.tsv have to be there, once")
            parts = whole[0]
            adata = read_market(parts["m"], parts["b"], parts["f"])
        else:
            adata = read_h5(path)
        adata.X = sparse.csr_matrix(adata.X)
        canonical_counts(adata)
    make_unique(adata)
    return adata


def make_unique(adata: AnnData) -> None:
    """Number the names of genes that occur more than once, with a warning."""
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if not len(repeated):
        return
    some = ", ".join(repeated[:3]) + (", ..." if len(repeated) > 3 else "")
    adata.var_names_make_unique()
    warnings.warn(
        f"{len(repeated)} names of genes occur more than once ({some}): repeats got -1, -2, ... appended.",
        IsoviWarning,
        stacklevel=3,
    )
