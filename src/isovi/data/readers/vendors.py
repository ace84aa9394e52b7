"""Folders of MERSCOPE and CosMx: a table of counts and one of cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isovi.data.readers.source import require_one_sample
from isovi.data.readers.table import CountTable
from isovi.data.readers.tabular import is_table
from isovi.errors import InputError


@dataclass(frozen=True)
class Merscope(CountTable):
    """Cells of a MERSCOPE region: ``cell_by_gene`` and ``cell_metadata``."""

    kind = "Vizgen MERSCOPE"


@dataclass(frozen=True)
class CosMx(CountTable):
    """Cells of a CosMx slide: ``exprMat`` and ``metadata``, named by number and field of view."""

    kind = "NanoString CosMx"


def find_vendor(folder: Path) -> CountTable | None:
    """The tables of MERSCOPE or CosMx in a folder, if they are there.

    Raises
    ------
    InputError
        If there are several tables of counts or of cells.
    """
    tables = sorted(path for path in folder.iterdir() if path.is_file() and is_table(path))
    for kind, counts, cells in ((Merscope, "cell_by_gene", "cell_metadata"), (CosMx, "exprmat", "metadata")):
        found = [[path for path in tables if word in path.name.lower()] for word in (counts, cells)]
        if not all(found):
            continue
        if max(map(len, found)) > 1:
            names = ", ".join(path.name for paths in found for path in paths)
            raise InputError(
                f'"{folder}" has several tables of {kind.kind}: {names}.',
                "Counts and cells of one slide are read.",
                "Move those of each slide to a folder of its own, or name both: coordinates=FILE.",
            )
        require_one_sample(found[0][0], found[1][0])
        return kind(found[0][0], found[1][0])
    return None
