"""What is in an input: what a fit would use of it, what is missing, and what helps."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.data import check, decimals
from isovi.data.findings import Finding, find_in, of_fields, section_columns
from isovi.data.readers.find import find
from isovi.data.readers.positions import known_positions
from isovi.data.readers.source import INPUT_KEY, PIXELS, POSITIONS_KEY, UNKNOWN, Source
from isovi.data.usable import RAW_LAYER, Usable, is_to_round, placed, sample, usable, without_empty_z
from isovi.data.writable import writable
from isovi.errors import InputError, IsoviWarning
from isovi.spots import SPLIT_KEY, spacing

COUNT_LAYERS = ("counts", "raw_counts", "raw", "count")  # taken before others
MOST_LABELS = 100  # more categories are names of something else
_OURS = ("isovi_domain", SPLIT_KEY)  # columns that a fit writes


@dataclass(frozen=True)
class Counts:
    """A matrix of the input.

    Attributes
    ----------
    layer
        Its name; ``None`` is ``X``, and ``"raw"`` may be ``adata.raw``.
    problem
        Why these are no raw counts, or empty.
    median
        Median over cells of their counts.
    n_empty
        Cells without any.
    """

    layer: str | None
    problem: str
    median: float = float("nan")
    n_empty: int = 0
    decimals: bool = False  # counts that were corrected or estimated: round_counts=True rounds them


@dataclass(frozen=True)
class Positions:
    """Positions of the input.

    Attributes
    ----------
    key
        Key in ``obsm``.
    columns
        Names or number of the columns.
    unit
        As far as the format tells it.
    spacing
        Median distance to the nearest neighbour, in that unit.
    """

    key: str
    columns: str
    unit: str
    spacing: float


@dataclass(frozen=True)
class Inspection:
    """What is in an input.

    Attributes
    ----------
    source, kind
        What was looked at, and which kind it is.
    n_obs, n_vars
        Cells that can be used, and genes.
    about
        What was chosen where there was a choice.
    positions, counts
        All that there are; those that would be used come first.
    sections
        Columns of ``obs`` that may tell tissue sections, with their number of sections; the first would
        be used.
    labels
        Other columns of ``obs`` that may be labels, with their number of categories: candidates for
        ``label_key``.
    findings
        What a fit would warn of or refuse in the positions.
    notes
        What was said on reading, and what a fit would write otherwise than it is given.
    missing
        What keeps a fit from using it, and what helps.
    """

    source: Source
    kind: str
    n_obs: int
    n_vars: int
    about: dict[str, str]
    positions: tuple[Positions, ...]
    counts: tuple[Counts, ...]
    sections: dict[str, int]
    labels: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of a fit that differ from their defaults, such as ``{"layer": "counts"}``."""
        key = self.positions[0].key if self.positions else POSITIONS_KEY
        proposed = {
            "spatial_key": None if key == POSITIONS_KEY else key,
            "section_key": next(iter(self.sections), None),
            "layer": self.counts[0].layer if self.counts else None,
            "min_counts": 1 if self.counts and self.counts[0].n_empty else None,
            "round_counts": True if self.counts and self.counts[0].decimals else None,
        }
        for one in self.findings:
            proposed |= {name: value for name, value in one.parameters.items() if name != "section_key"}
        return {name: value for name, value in proposed.items() if value is not None}


def inspect(source: Source | str | Path) -> Inspection:
    """Say what is in an input; nothing is changed, and counts on disk are read block by block.

    Parameters
    ----------
    source
        What :func:`isovi.data.io.read` takes.

    Returns
    -------
    What there is, what :func:`isovi.files.fit` would use, and what is missing.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    source = Source.of(source)
    reader = find(source)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", IsoviWarning)
        with reader.stored() as adata:
            check.size(adata)
            key = _with_positions(adata)
            adata = adata if key is None else without_empty_z(adata, key)
            taken = usable(adata, spatial_key=key)
            taken.say()
            about = {**reader.about, **_coordinate_system(adata)}
            annotation = _annotation(adata, taken)
            found = () if key is None else find_in(annotation, key)
            sections = sections_in(annotation, found)
            labels = labels_in(annotation, sections)
            positions = tuple(positions_in(annotation, next(iter(sections), None)))
            counts = tuple(sorted(counts_in(adata, taken), key=_preference))
            missing = (
                *_missing_names(annotation),
                *_missing_positions(adata, positions),
                *_refused_positions(annotation, positions, next(iter(sections), None)),
                *_missing_counts(counts),
            )
            n_obs, n_vars = annotation.shape
            converted = writable(adata).notes
    notes = (*(str(note.message) for note in said), *converted)
    return Inspection(
        source, reader.kind, n_obs, n_vars, about, positions, counts, sections, labels, found, notes, missing
    )  # fmt: skip


def _keys(adata: AnnData) -> list[str]:
    """Keys in ``obsm`` that may have positions, ``"spatial"`` first, by name after it."""
    return sorted(
        (key for key in adata.obsm if "spatial" in key.lower()), key=lambda k: (k != POSITIONS_KEY, k)
    )


def _with_positions(adata: AnnData) -> str | None:
    """The first key in ``obsm`` with positions of most cells."""
    for key in _keys(adata):
        with suppress(InputError):
            placed(adata, key)
            return key
    return None


def usable_positions(adata: AnnData) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of two or three finite numeric columns in ``obsm``, ``"spatial"`` first, by name after it."""
    for key in _keys(adata):
        with suppress(InputError):
            yield key, check.coordinates(adata, key)


def positions_in(adata: AnnData, section_key: str | None = None) -> Iterator[Positions]:
    """All that can be used as positions; their spacing is that of the first section, if there are some."""
    codes, names = check.sections(adata, section_key)
    for number, (key, values) in enumerate(usable_positions(adata)):
        if number == 0:  # as a fit does, it warns of positions that repeat
            with suppress(InputError):
                check.section_coordinates(values, codes, names)
        columns = getattr(adata.obsm[key], "columns", "xyz"[: values.shape[1]])
        length = spacing(values[codes == codes[0]])
        yield Positions(key, ", ".join(map(str, columns)), _unit(adata, key), length)


def _unit(adata: AnnData, key: str) -> str:
    """What the format says, or what was noted when it was read, or what scanpy's reader leaves."""
    if key == POSITIONS_KEY and INPUT_KEY in adata.uns:
        return str(adata.uns[INPUT_KEY]["unit"])
    libraries = adata.uns.get("spatial", {})
    scanpy = isinstance(libraries, dict) and any(
        isinstance(one, dict) and "scalefactors" in one for one in libraries.values()
    )
    if key != POSITIONS_KEY or not scanpy:
        return UNKNOWN
    return "pixels of each field of view" if of_fields(adata) else f"{PIXELS} (as scanpy reads Visium)"


def counts_in(adata: AnnData, taken: Usable) -> Iterator[Counts]:
    """``X``, every layer, and ``raw`` where it has all genes; over the genes and spots that take part."""
    if adata.X is not None:
        yield look_at(adata.X, None, taken.spots, taken.genes)
    for name in adata.layers:
        if name is not None:  # anndata 0.13 lists X among the layers
            yield look_at(adata.layers[name], str(name), taken.spots, taken.genes)
    if adata.raw is not None and RAW_LAYER not in adata.layers:
        where = adata.raw.var_names.get_indexer(adata.var_names[taken.genes])
        genes = np.zeros(adata.raw.n_vars, dtype=bool)
        genes[where] = True
        if (where >= 0).all():
            yield look_at(adata.raw.X, RAW_LAYER, taken.spots, genes)


def look_at(
    matrix: Any, layer: str | None, spots: np.ndarray | None = None, genes: np.ndarray | None = None
) -> Counts:
    """Whether a matrix holds raw counts, and how many, over some spots and genes; all by default."""
    if matrix.dtype.kind not in "biuf":
        return Counts(layer, f"of type {matrix.dtype}")
    genes = None if genes is None or genes.all() else genes  # proteins may have decimals
    kinds = {_problem(replace(one, values=one.of(genes)).stored) for one in check.blocks(matrix)} - {""}
    for problem in ("not finite", "negative values: scaled or corrected"):
        if problem in kinds:
            return Counts(layer, problem)
    is_decimal = "decimals" in kinds
    some = sample(matrix) if genes is None else sample(matrix)[:, np.flatnonzero(genes)]
    if is_decimal and decimals.kind_of(some) != decimals.CORRECTED:
        return Counts(layer, f"no whole numbers: {decimals.kind_of(some)}")
    if kinds and not is_decimal and layer is None:
        is_to_round(matrix)  # says it
    totals = check.cell_totals(matrix, genes)
    totals = totals if spots is None else totals[spots]
    return Counts(layer, "", float(np.median(totals)), int((totals == 0).sum()), is_decimal)


def _problem(values: np.ndarray) -> str:
    if values.dtype.kind != "f":
        return "negative values: scaled or corrected" if (values < 0).any() else ""
    if not np.isfinite(values).all():
        return "not finite"
    if (values < 0).any():
        return "negative values: scaled or corrected"
    if decimals.is_whole(values).all():
        return ""
    return "noise" if decimals.is_noise(values) else "decimals"


def _preference(counts: Counts) -> tuple[bool, bool, bool, bool, bool, float, str]:
    """Raw counts before others, ``X`` before layers, those called counts before others, then by their number.

    So neither zeros in ``X`` nor a mask, nor a part of the counts (``ambiguous`` of velocyto), come first.
    """
    layer, median = counts.layer, counts.median if counts.median > 0 else 0.0
    kind = (bool(counts.problem), not median, counts.decimals, layer is not None, layer not in COUNT_LAYERS)
    return *kind, -median, layer or ""


def sections_in(adata: AnnData, findings: tuple[Finding, ...] = ()) -> dict[str, int]:
    """Columns that may tell sections apart and their number of sections.

    Those that positions speak for and that are called like sections come first, then others of such names.
    """
    found = [one.parameters["section_key"] for one in findings if "section_key" in one.parameters]
    named = section_columns(adata)
    keys = dict.fromkeys([*(key for key in found if key in named), *named, *found])
    return {key: named[key] if key in named else len(check.sections(adata, key)[1]) for key in keys}


def labels_in(adata: AnnData, sections: Collection[str] = ()) -> dict[str, int]:
    """Columns of names that may be labels and their number of categories, but for sections and our own."""
    found = {}
    for key in adata.obs:
        column = adata.obs[key]
        named = isinstance(column.dtype, pd.CategoricalDtype) or not (
            pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column)
        )
        if key in sections or key in _OURS or not named:
            continue
        number = int(column.dropna().astype(str).nunique())
        if 2 <= number <= min(MOST_LABELS, len(column) // 3):
            found[str(key)] = number
    return found


def _coordinate_system(adata: AnnData) -> dict[str, str]:
    system = adata.uns.get(INPUT_KEY, {}).get("coordinate_system")
    return {} if system is None else {"coordinate system": str(system)}


def _annotation(adata: AnnData, taken: Usable) -> AnnData:
    """What there is besides matrices of the spots and genes that take part."""
    obsm = {key: value[taken.spots] for key, value in adata.obsm.items()}
    var = pd.DataFrame(index=adata.var_names[taken.genes])
    return AnnData(obs=adata.obs[taken.spots], var=var, obsm=obsm, uns=adata.uns)


def _missing_names(adata: AnnData) -> Iterator[str]:
    try:
        check.names(adata)
    except InputError as error:
        yield str(error)


def _missing_positions(adata: AnnData, positions: tuple[Positions, ...]) -> Iterator[str]:
    if positions:
        return
    if POSITIONS_KEY in adata.obsm:  # then something is wrong with them
        try:
            placed(adata, POSITIONS_KEY)
        except InputError as error:
            yield str(error)
        return
    if (found := known_positions(map(str, adata.obs.select_dtypes("number")))) is not None:
        columns = list(found[0])
        remedy = f'adata.obsm["spatial"] = adata.obs[{columns}].to_numpy()'
        yield f"Positions: obs has {' and '.join(columns)}, but obsm has none. Store them: {remedy}."
        return
    have = ", ".join(map(str, adata.obsm)) or "nothing"
    yield (
        f"Positions: obsm has {have}. Pass coordinates=FILE, a table with the names of the cells and "
        "columns x and y, or spatial_key=KEY if one of these has them."
    )


def _refused_positions(
    adata: AnnData, positions: tuple[Positions, ...], section_key: str | None
) -> Iterator[str]:
    """Why a fit refuses the positions that it would take, if it does."""
    if positions:
        values, codes = check.coordinates(adata, positions[0].key), check.sections(adata, section_key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said before
            try:
                check.section_coordinates(values, *codes)
            except InputError as error:
                yield f"Positions: {error}"


def _name(counts: Counts) -> str:
    if counts.layer is None or counts.layer == RAW_LAYER:
        return counts.layer or "X"
    return f"layer {counts.layer}"


def _missing_counts(counts: tuple[Counts, ...]) -> Iterator[str]:
    if not counts or counts[0].problem:
        where = ", ".join(f"{_name(one)} ({one.problem})" for one in counts) or "no matrix"
        yield f"Raw counts: none in {where}. Go back to the file before normalisation."
