"""What names and values of columns say, however they are spelled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

TISSUE = frozenset({"intissue", "isintissue", "ontissue", "isontissue", "istissue", "undertissue"})
_TRUE = frozenset({"1", "1.0", "true", "t", "yes", "y"})
_FALSE = frozenset({"0", "0.0", "false", "f", "no", "n"})
_MISSING = frozenset({"", "nan", "none", "<na>", "na"})
_MOST_ALIKE = 15  # columns whose names begin with the same word, as cell_area and cell_id do
_WHOLE = re.compile(r"^(-?\d+)\.0$")
_CASES = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DESCRIBE_CELLS = frozenset(  # plain names
    {
        *("fov", "cellid", "area", "volume", "perimeter", "eccentricity", "circularity", "aspectratio"),
        *("size", "radius", "solidity", "majoraxislength", "minoraxislength", "width", "height"),
        *("minx", "maxx", "miny", "maxy", "intissue", "arrayrow", "arraycol", "bregma"),
        *("ncounts", "ncount", "numi", "umi", "ngenes", "ngene", "sum", "detected", "total", "depth"),
        *(
            "sizefactor",
            "sizefactors",
            "libsize",
            "ncells",
            "density",
            "elongation",
            "lifespan",
            "population",
            "scale",
        ),
        *("class", "subclass", "annotation", "domain", "region", "layer", "tissue", "group", "condition"),
        *("origident", "age", "sex", "day", "stage", "timepoint", "subject", "plate"),
    }
)
_WORDS = frozenset(  # of which one is enough: no gene is called so
    {
        *("cell", "cells", "nucleus", "nuclei", "cytoplasm", "count", "counts", "umi", "umis", "transcript"),
        *("transcripts", "molecules", "genes", "features", "barcode", "probe", "codeword", "library"),
        *("cluster", "clusters", "clusterid", "leiden", "louvain", "celltype", "celltypes", "label"),
        *("labels", "sample", "sampleid", "batch", "section", "slice", "slide", "donor", "patient", "mouse"),
        *(
            "animal",
            "replicate",
            "doublet",
            "singlet",
            "percent",
            "pct",
            "qc",
            "score",
            "mito",
            "field",
        ),
        *("annotation", "region", "area", "volume", "tile"),
    }
)
_PATTERN = re.compile(
    r"(ncount|nfeature|log1p|total)_.+|.+_snn_res.*|(umap|tsne|pc)_[12]|.*(center|centroid|global|local)_?[xyz](_px|_um|_mm)?"
    r"|(mean|max)\.?(dapi|membrane|cd\d+|panck).*|pxl_.+|(spatial|coord)_?\d|image(row|col)",
    re.IGNORECASE,
)


def plain(name: object) -> str:
    """A name in lower case, letters and digits only: ``In.Tissue`` is ``intissue``."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def words(name: object) -> list[str]:
    """The words of a name in lower case: ``CenterX_global.px`` has ``center``, ``x``, ``global``, ``px``."""
    return [word for word in re.split(r"[^a-z0-9]+", _CASES.sub(" ", str(name)).lower()) if word]


def describes_cells(name: str) -> bool:
    """Whether a column of this name is known to describe cells, whatever separators it is written with."""
    every = words(name)
    parts = set(every)  # of one word that is repeated, as QuPath and CODEX have "size:size", once
    once = plain(name) if len(parts) > 1 else "".join(parts)
    is_id = every[-1:] == ["id"]  # in front it is a gene of the zebrafish: id:ibd5118
    return once in _DESCRIBE_CELLS or is_id or bool(_WORDS & parts) or bool(_PATTERN.fullmatch(name))


def is_no_gene(name: str) -> bool:
    """Whether a feature of this name is a column that describes cells, by more than one word."""
    return plain(name) in ("fov", "cellid") or (len(words(name)) > 1 and describes_cells(name))


def apart(names: Iterable[str]) -> set[str]:
    """The names less those that begin with the word of many others, a prefix of genes: ``mouse_Actb``."""
    first = {name: next(iter(words(name)), "") for name in names}
    alike = Counter(first.values())
    return {name for name, word in first.items() if alike[word] <= _MOST_ALIKE}


def texts(values: pd.Series) -> pd.Series:
    """Values as text: Parquet and HDF5 may hold them as bytes."""
    if values.dtype == object:
        values = values.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    return values.astype(object).map(str)  # of pandas 3's strings astype(str) keeps NaN


def ids(values: pd.Series | pd.Index) -> pd.Index:
    """Names as plain text, however stored: 7, 7.0, ``"7.0"``, ``" 7"`` and ``b"7"`` are all ``7``."""
    return pd.Index(texts(pd.Series(values)).str.strip().str.replace(_WHOLE, r"\1", regex=True))


def truth(values: pd.Series) -> np.ndarray | None:
    """What a column says that is true or false, as numbers, text, categories or nullable values.

    Returns
    -------
    1, 0, and NaN where it is missing, shape ``(row,)``; ``None`` if the column holds anything else.
    """
    said = texts(values).str.strip().str.lower()
    true, false = said.isin(_TRUE).to_numpy(), said.isin(_FALSE).to_numpy()
    if not (true | false | said.isin(_MISSING).to_numpy()).all():
        return None
    return np.where(true, 1.0, np.where(false, 0.0, np.nan))


def some(values: Iterable[object], *, limit: int = 5, quote: bool = True) -> str:
    """The first few values, for a message."""
    words = [f'"{value}"' if quote else str(value) for value in values]
    return ", ".join(words[:limit]) + (", ..." if len(words) > limit else "") if words else "nothing"
