"""Gene expression matrices of Stereo-seq (GEM): a line for each gene at each position of the chip."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.columns import plain, texts
from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.source import POSITIONS_KEY, Reader
from isovi.data.readers.tabular import blocks_of, columns_of
from isovi.errors import InputError, IsoviWarning

BIN = 50  # positions of the chip, of 0.5 micrometres each, along the side of a square bin, at least
_SHIFT = 2**32  # of x in a key that holds x and y
_NAMES = {  # plain names
    "gene": ("geneid", "gene", "genename"),
    "x": ("x",),
    "y": ("y",),
    "count": ("midcount", "midcounts", "umicount", "umicounts"),
}
_OTHER_COUNTS = ("count", "counts", "umi", "umis", "mid")  # of files that are called .gem
_CELLS = ("cellid", "cell", "label")


@dataclass(frozen=True)
class Gem(Reader):
    """A GEM table.

    Attributes
    ----------
    path
        Text, perhaps compressed.
    """

    kind = "Stereo-seq GEM"
    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The table."""
        return (self.path,)

    @property
    def unit(self) -> str:
        """Positions of the chip."""
        return "positions of the chip, 0.5 micrometres apart"

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, by what they hold."""
        return gem_columns(columns_of(self.path), self.path)

    @cached_property
    def grid(self) -> int:
        """Distance of the positions that its rows are at: the side of its bins if it is binned, or 1."""
        for block in blocks_of(self.path):
            places = [block[self.columns[axis]].to_numpy(dtype=np.int64) for axis in ("x", "y")]
            return int(np.gcd.reduce(np.concatenate([one - one[0] for one in places]))) or 1
        return 1

    @property
    def bin(self) -> int:
        """Side of the bins that are read, in positions: a multiple of the table's own, which are not cut."""
        return -(-BIN // self.grid) * self.grid

    @property
    def about(self) -> dict[str, str]:
        """What its observations are."""
        side = f"{self.bin} x {self.bin}" if "cell" not in self.columns else ""
        return {"observations": f"bins of {side} positions" if side else "cells"}

    def read(self) -> AnnData:
        """Counts of the cells that the table names, or of square bins, at their centres."""
        used, genes, parts, size = self.columns, dict[str, int](), [], self.bin
        for block in blocks_of(self.path):
            block = block.rename(columns={name: what for what, name in used.items()})
            parts.append(_summed(block, genes, size))
        if not parts:
            raise InputError(f'"{self.path}" has no rows.', "It should hold counts.", "Check its origin.")
        entries = pd.concat(parts, ignore_index=True)
        if "cell" in used:
            entries = entries[entries["key"] != 0]  # the chip between the cells
        else:
            own = f", as it holds bins of {self.grid} x {self.grid}" if self.grid > 1 else ""
            note = (
                f'"{self.path.name}" is read in bins of {size} x {size} positions ({size / 2:g} micrometres)'
                f"{own}. For other bins, or for cells, write an .h5ad with Stereopy."
            )
            warnings.warn(note, IsoviWarning, stacklevel=2)
        codes, keys = pd.factorize(entries["key"], sort=True)
        counts = sparse.coo_matrix(
            (entries["count"], (codes, entries["gene"])), shape=(len(keys), len(genes))
        )
        adata = AnnData(sparse.csr_matrix(counts, dtype=np.float32), var=pd.DataFrame(index=list(genes)))
        adata.obs_names = (
            keys.astype(str) if "cell" in used else [f"{k // _SHIFT}_{k % _SHIFT}" for k in keys]
        )
        canonical_counts(adata)
        adata.obsm[POSITIONS_KEY] = _centres(entries, codes, keys, None if "cell" in used else size)
        return self.sign(adata)


def gem_columns(columns: list[str], path: Path) -> dict[str, str]:
    """The columns of a GEM table by what they hold; empty if it is none."""
    known = {plain(name): name for name in columns}
    of_counts = _OTHER_COUNTS if ".gem" in path.name.lower() else ()
    wanted = {**_NAMES, "count": (*_NAMES["count"], *of_counts)}
    found = {what: known[n] for what, names in wanted.items() for n in names[::-1] if n in known}
    if len(found) < len(_NAMES):
        return {}
    cell = next((known[name] for name in _CELLS if name in known), None)
    return found if cell is None else found | {"cell": cell}


def _summed(block: pd.DataFrame, genes: dict[str, int], size: int) -> pd.DataFrame:
    """Counts by cell or bin, and gene; with the sums of positions that counts were seen at."""
    x, y = (block[axis].to_numpy(dtype=np.int64) for axis in ("x", "y"))
    codes, names = pd.factorize(texts(block["gene"]))
    known = np.array([genes.setdefault(name, len(genes)) for name in names], dtype=np.int64)
    key = block["cell"].astype(np.int64) if "cell" in block else x // size * _SHIFT + y // size
    table = pd.DataFrame({"key": key, "gene": known[codes], "count": block["count"], "x": x, "y": y, "n": 1})
    return table.groupby(["key", "gene"], as_index=False).sum()


def _centres(entries: pd.DataFrame, codes: np.ndarray, keys: pd.Index, size: int | None) -> np.ndarray:
    """Centres of bins of this size, or mean positions of the cells' counts, shape ``(cell, 2)``."""
    if size is not None:
        corners = np.stack([np.asarray(keys) // _SHIFT, np.asarray(keys) % _SHIFT], axis=1)
        return (corners + 0.5) * size
    sums = entries.groupby(codes)[["x", "y", "n"]].sum()
    return sums[["x", "y"]].to_numpy(dtype=np.float64) / sums[["n"]].to_numpy()
