"""What positions look like that a fit should not pass over: undeclared sections, local frames, outliers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from isovi._shapes import CellIndexArray, CoordinateArray
from isovi.data import check
from isovi.data.columns import describes_cells, words
from isovi.data.readers.positions import ARRAY, axis_of, is_axis, is_hexagonal
from isovi.data.readers.source import POSITIONS_KEY
from isovi.data.readers.spatialdata import ATTRS_KEY, regions_of
from isovi.errors import InputError, IsoviWarning
from isovi.spots import spacing

SECTION_NAMES = (  # of columns that usually tell tissue sections apart, the surest first
    *("section", "section_id", "slice", "slice_id", "slide", "slide_id", "puck", "library_id", "library"),
    *("sample", "sample_id", "sample_name", "region", "embryo", "orig.ident"),
    *(
        "capture_area",
        "array_id",
        "specimen",
        "tissue_section",
        "bregma",
        "run_tissue",
        "gsm",
        "geo_accession",
    ),
)
PLACE_NAMES = ("fov", "field_of_view", "field", "tile")  # parts of one section, or sections of their own
GROUP_NAMES = (  # columns that may tell sections apart if their frames overlap
    *("batch", "patient", "patient_id", "donor", "donor_id", "subject", "individual", "animal", "mouse"),
    *(
        "replicate",
        "dataset",
        "experiment",
        "run",
        "core",
        "well",
        "chip",
        "sex",
        "age",
        "genotype",
        "condition",
    ),
    *(
        "time",
        "day",
        "stage",
        "disease",
        "diagnosis",
        "cohort",
        "study",
        "project",
        "case",
        "lane",
        "channel",
    ),
    *("hemisphere", "z", "plane", "zplane", "zlayer", "tissue"),
    *("treatment", "timepoint", "image", "imageid", "img", "roi", "scene", "file", "filename", "acquisition"),
)
SECTION_WORDS = frozenset(  # at the end of such a name, as of brain_section_label
    {"section", "slice", "slide", "puck", "library", "sample", "specimen", "orig"}
)
GROUP_WORDS = SECTION_WORDS | frozenset(  # in names of columns that may tell sections apart
    {
        "donor",
        "patient",
        "animal",
        "mouse",
        "replicate",
        "rep",
        "image",
        "roi",
        "core",
        "tma",
        "brain",
        "embryo",
    }
    | {"gsm", "run", "block", "plate", "biopsy", "piece", "fragment", "batch", "subject", "layer", "plane"}
)
_NUMBERING = frozenset(
    {"id", "ids", "name", "names", "no", "nr", "num", "number", "numeric", "key", "label", "index"}
)
GLOBAL_WORDS = frozenset(  # in keys of obsm with positions that may be common to all fields of view
    {"spatial", "global", "coords", "coordinates", "positions", "stitched", "slide", "centroids", "xy"}
)
MIXED = 0.25  # share of nearest neighbours of another value, of what mixing at random gives
_CELLS_OF_FIELD = 10  # that a field of view has at least
_LARGEST = 1e150  # positions whose squares are numbers; larger ones are refused by the check of positions
_SAMPLE = 20_000  # cells that are looked at for mixing
_FEW = 3  # doubled positions that may be chance
_DOUBLED = 0.01  # share of cells at doubled positions that is no chance
_NO_CHANCE = 20  # doubled positions that no column of few values tells apart by chance
_FAR = 2.0  # tissue widths between a cell that lies far out and the tissue
_TAIL = 0.05  # share of cells at either end that does not count for the width
_DEEP = 10.0  # times its width that no tissue is deep
_MAX_PIECES = 8  # in a row, that are looked for
_RULE = "Positions of different sections have no distance, so sections have to be declared."
_COMPLETE = 0.9  # share of cells whose section is known, in sections of three cells or more
_CELL_NAMES = (  # parts that concatenating appends to names of cells, or puts in front of barcodes
    re.compile(r".*[A-Za-z0-9][-_](?P<group>\d{1,3}|[A-Za-z]\w{0,15})"),
    re.compile(r"(?P<group>.+?)[-_:.#][ACGT]{12,}(?:-\d+)?"),
)
_FEW_NAMES = 1000  # that are looked at first
_MOST_GROUPS = 50  # such parts that are sections
_Z_NAMES = frozenset({"depth", "height", "plane", "level", "layer", "slice", "section", "bregma"})
_NUMBERED = re.compile(r"\D*\d+")  # names that do not say which axis it is
_SPACINGS = 3.0  # ratio of sections' spacings that points to different units


@dataclass(frozen=True)
class Finding:
    """Something about the positions that should be known before a fit.

    Attributes
    ----------
    about
        ``"sections"``, ``"frames"``, ``"axes"``, ``"outliers"`` or ``"units"``.
    received, rule, remedy
        What was found, what is required, what helps; in sentences, as of an error.
    sure
        Whether it is certain enough to refuse a fit.
    parameters
        Parameters of a fit that would be right.
    """

    about: str
    received: str
    rule: str
    remedy: str
    sure: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.received} {self.remedy}"


@dataclass(frozen=True, eq=False)
class Column:
    """A column of ``obs`` that may tell sections apart, with the codes of the cells.

    Attributes
    ----------
    name
        Its name; empty if it is made of the names of the cells.
    codes
        Indices into ``values``, shape ``(cell,)``; one more where the value is missing.
    values
        The sections.
    is_usable
        Whether a fit takes it as it is: no value is missing, no section too small.
    """

    name: str
    codes: CellIndexArray
    values: tuple[str, ...]
    is_usable: bool = True


def find_in(
    adata: AnnData, spatial_key: str = POSITIONS_KEY, section_key: str | None = None
) -> tuple[Finding, ...]:
    """Look for what makes distances between positions wrong.

    Parameters
    ----------
    adata
        Data in memory, backed or packed; only annotation is looked at.
    spatial_key
        Key in ``obsm`` of the positions.
    section_key
        Column of ``obs`` with the section, if it was declared: then sections are not looked for.

    Returns
    -------
    Findings, at most one on sections; none where all is as usual.
    """
    positions = check.numeric_positions(adata, spatial_key)
    positions = np.where(np.abs(positions) < _LARGEST, positions, np.nan)
    known = np.isfinite(positions).all(axis=1)
    if known.sum() < check.MIN_SECTION_SPOTS:
        return ()
    found = [] if section_key is not None else list(_sections(adata, positions, known, spatial_key))[:1]
    key = section_key or next((one.parameters.get("section_key") for one in found), None)
    codes, names = np.zeros(len(positions), dtype=np.int64), ["all"]
    if key is not None:
        codes, names = check.sections(adata, key)
    names = [""] if key is None else names
    found += list(_axes(adata, positions, known, spatial_key))[:1]
    found += _far_out(adata, positions, codes, names)
    if key is not None:
        found += _units(positions[known], codes[known], names, is_declared=section_key is not None)
    return tuple(found)


def require(findings: tuple[Finding, ...]) -> None:
    """Refuse the first finding that is sure, and warn of the others.

    Raises
    ------
    InputError
        If one is sure.

    Warns
    -----
    IsoviWarning
        For each of the others.
    """
    for one in findings:
        if one.sure:
            raise InputError(one.received, one.rule, one.remedy)
    for one in findings:
        warnings.warn(str(one), IsoviWarning, stacklevel=3)


# ---------------------------------------------------------------------------- columns


def section_columns(adata: AnnData) -> dict[str, int]:
    """Columns that are called like sections, or name SpatialData's elements, and their number of sections."""
    columns = _columns(adata, SECTION_NAMES)
    return {column.name: len(column.values) for column in columns if column.is_usable}


def _columns(
    adata: AnnData, names: tuple[str, ...], having: Callable[[str], bool] = lambda _: False
) -> list[Column]:
    """Columns of these names, in their order, or whose name is like that, that may be sections."""
    rank = {_plain(name): place for place, name in reversed(list(enumerate(names)))}
    attrs = adata.uns.get(ATTRS_KEY, {})
    if len(regions_of(attrs)) > 1:
        rank[_plain(str(attrs["region_key"]))] = -1
    keys = [str(key) for key in adata.obs]
    columns = sorted((key for key in keys if _plain(key) in rank), key=lambda key: rank[_plain(key)])
    columns += [key for key in keys if key not in columns and having(key)]
    found = (_column(key, check.occurring(adata.obs[key])) for key in columns)
    return [column for column in found if column is not None]


def _column(name: str, values: pd.Categorical) -> Column | None:
    """A column with two or more values; none if too few cells are in groups of the size of a section."""
    codes = values.codes.astype(np.int64)
    sizes = np.bincount(codes[codes >= 0], minlength=len(values.categories))
    large = sizes >= check.MIN_SECTION_SPOTS
    if large.sum() < 2 or sizes[large].sum() < _COMPLETE * len(codes):
        return None
    is_usable = bool(large.all() and (codes >= 0).all())
    codes = np.where(codes < 0, len(sizes), codes)
    return Column(name, codes, tuple(map(str, values.categories)), is_usable)


def _in_names(adata: AnnData) -> list[Column]:
    """Sections that concatenating left in the names of the cells only: ``AAAC-1-0`` and ``AAAC-1-1``."""
    names = adata.obs_names.astype(str)
    some = names[:: max(len(names) // _FEW_NAMES, 1)]
    for pattern in _CELL_NAMES:
        if not all(map(pattern.fullmatch, some)):
            continue
        groups = [found["group"] if (found := pattern.fullmatch(name)) else None for name in names]
        column = _column("", check.occurring(pd.Series(groups))) if len(set(groups)) <= _MOST_GROUPS else None
        if column is not None:
            return [column]
    return []


def _plain(name: str) -> str:
    """A column's name without case, separators and words for a name: ``Sample_ID`` is ``sample``."""
    return re.sub(r"(?<=.{3})(id|ids|name|names|no|nr|num|number|key|label)$", "", "".join(_subject(name)))


def _subject(name: str) -> list[str]:
    """The words of a name without those at its end that say that it is a name or a number."""
    parts = words(name)
    while len(parts) > 1 and parts[-1] in _NUMBERING:
        parts.pop()
    return parts


def _is_section(name: str) -> bool:
    return bool(SECTION_WORDS & set(_subject(name)[-1:]))


# ---------------------------------------------------------------------------- sections


def _sections(
    adata: AnnData, positions: CoordinateArray, known: np.ndarray, spatial_key: str
) -> Iterator[Finding]:
    """Signs of several sections, or fields of view, in one frame; the surest first."""
    named, places = _columns(adata, SECTION_NAMES, _is_section), _columns(adata, PLACE_NAMES)
    groups = [
        *_columns(adata, GROUP_NAMES, lambda name: bool(GROUP_WORDS & set(words(name)))),
        *_in_names(adata),
    ]
    groups = [column for column in groups if column.name not in {one.name for one in named}]
    yield from _local_frames(adata, positions, known, spatial_key, places)
    yield from _libraries(adata, named, groups)
    yield from _doubled(adata, positions, known, [*named, *places, *groups])
    for column in (*named, *groups):
        share = mixing(positions[known], column.codes[known])
        if share > MIXED:
            received = f"Cells of {_of(column)} lie among each other: their frames overlap."
            yield _declare(column, received)
    for column in named:
        if _plain(column.name) != "region":  # usually parts of one tissue
            yield _declare(column, f"Sections may be distinguished by {_of(column)}.")
    yield from _gap(positions[known])


def _local_frames(
    adata: AnnData, positions: CoordinateArray, known: np.ndarray, spatial_key: str, places: list[Column]
) -> Iterator[Finding]:
    """Positions that begin anew in each field of view."""
    for column in places:
        few = np.median(np.bincount(column.codes[known])) < _CELLS_OF_FIELD  # most lie at an edge
        overlap = mixing(positions[known], column.codes[known]) > 2 * MIXED
        key = None if few else _global_key(adata, spatial_key, column)
        moved = key is not None and of_fields(adata) and not _is_one_frame(adata, spatial_key, key)
        if few or not (overlap or moved):
            continue
        where = "lie on each other" if overlap else f'lie otherwise than in obsm["{key}"]'
        received = (
            f'obsm["{spatial_key}"] is local to each of {len(column.values)} fields of view: those of '
            f"{_of(column)} {where}."
        )
        rule = "Distances need positions in one frame."
        if key is not None:
            remedy = f"Pass spatial_key={key!r}, which has positions common to all."
            yield Finding("frames", received, rule, remedy, True, {"spatial_key": key})
        else:
            common = [
                str(name)
                for name in adata.obs
                if "global" in words(name) and axis_of(str(name))[0] in ("x", "y")
            ]
            remedy = f"Pass section_key={column.name!r}, or positions common to all fields"
            remedy += (
                f': adata.obsm["spatial"] = adata.obs[{common}].to_numpy().' if len(common) == 2 else "."
            )
            yield Finding("frames", received, rule, remedy, True, {"section_key": column.name})


def _global_key(adata: AnnData, spatial_key: str, column: Column) -> str | None:
    """Key in ``obsm`` of positions in which the fields of view lie apart."""
    for key in sorted(map(str, adata.obsm)):
        if key == spatial_key or not GLOBAL_WORDS & set(words(key)):
            continue
        try:
            positions = check.coordinates(adata, key)
        except InputError:
            continue
        if mixing(positions, column.codes) <= MIXED:
            return key
    return None


def _is_one_frame(adata: AnnData, first: str, second: str) -> bool:
    """Whether positions under two keys differ by unit, rotation, reflection and shift at most."""
    one, other = (np.asarray(adata.obsm[key], dtype=np.float64)[:, :2] for key in (first, second))
    known = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    one, other = (part[known] - part[known].mean(axis=0) for part in (one, other))
    left = one - other @ np.linalg.lstsq(other, one, rcond=None)[0]
    return bool(np.square(left).sum() <= 1e-3 * np.square(one).sum())


def of_fields(adata: AnnData) -> bool:
    """Whether ``uns["spatial"]`` has an entry for each field of view, as squidpy reads CosMx."""
    libraries = set(_names_of_libraries(adata))
    return any(set(column.values) <= libraries for column in _columns(adata, PLACE_NAMES))


def _names_of_libraries(adata: AnnData) -> list[str]:
    kept = adata.uns.get("spatial", {})
    found = kept.items() if isinstance(kept, Mapping) else ()  # CELLxGENE keeps "is_single" there, too
    return [str(name) for name, one in found if isinstance(one, Mapping)]


def _libraries(adata: AnnData, named: list[Column], groups: list[Column]) -> Iterator[Finding]:
    """Several libraries in ``uns["spatial"]``, as scanpy and squidpy keep one for each section."""
    libraries = _names_of_libraries(adata)
    if len(libraries) < 2 or of_fields(adata) or _names_one(adata, libraries):
        return
    listed = ", ".join(f'"{name}"' for name in libraries[:5]) + (", ..." if len(libraries) > 5 else "")
    received = f'uns["spatial"] has {len(libraries)} libraries: {listed}.'
    columns = [*named, *groups]
    same = [column for column in columns if set(column.values) <= set(libraries)]
    same = same or [column for column in _text_columns(adata) if set(column.values) <= set(libraries)]
    same = same or [column for column in columns if len(column.values) == len(libraries)]
    if same:
        yield _declare(same[0], received, sure=True)
        return
    remedy = "If they are sections, add a column to obs that names the section of each cell, as section_key."
    yield Finding("sections", received, _RULE, remedy)


def _names_one(adata: AnnData, libraries: list[str]) -> bool:
    """Whether a column says that all cells are of one of the libraries, as after taking one section."""
    constant = (adata.obs[key].dropna().unique() for key in _text_keys(adata))
    return any(len(values) == 1 and str(values[0]) in libraries for values in constant)


def _text_keys(adata: AnnData) -> list[str]:
    return [str(key) for key in adata.obs if not pd.api.types.is_numeric_dtype(adata.obs[key].dtype)]


def _text_columns(adata: AnnData) -> list[Column]:
    """Columns of text, of any name, with two or more values that are sections by their size."""
    return _columns(adata, tuple(_text_keys(adata)))


def _doubled(
    adata: AnnData, positions: CoordinateArray, known: np.ndarray, columns: list[Column]
) -> Iterator[Finding]:
    """Positions that several cells share, and a column that tells all of them apart."""
    frame = pd.DataFrame(positions[known])
    repeated = int(frame.duplicated().sum())
    if repeated <= max(_FEW, _DOUBLED * len(frame)):
        return
    if repeated > _NO_CHANCE:  # then a column of any name with about as many values
        most = 2 * int(frame.value_counts().max())
        columns = [*columns, *(c for c in _text_columns(adata) if len(c.values) <= most)]
    left = {column.name: int(frame.assign(c=column.codes[known]).duplicated().sum()) for column in columns}
    column = min(columns, key=lambda column: left[column.name], default=None)  # the first of equals
    if column is None or left[column.name] > repeated / 10:
        return  # check.section_coordinates warns of them
    rest = left[column.name]
    received = (
        f"{repeated} of {len(frame)} cells are at exactly the position of another one, and {_of(column)} "
        f"tell {'all of them' if rest == 0 else f'all but {rest}'} apart."
    )
    yield _declare(column, received, sure=rest == 0)


def _gap(positions: CoordinateArray) -> Iterator[Finding]:
    """Pieces in a row that lie further apart than they are wide."""
    for axis in range(positions.shape[1]):
        order = np.argsort(positions[:, axis], kind="stable")
        gaps = np.diff(positions[order, axis])
        for n_pieces in range(2, min(_MAX_PIECES, len(gaps)) + 1):
            cuts = np.sort(np.argpartition(gaps, -(n_pieces - 1))[-(n_pieces - 1) :])
            pieces = np.split(order, cuts + 1)
            widest, least = (
                max(float(np.ptp(positions[p], axis=0).max()) for p in pieces),
                float(gaps[cuts].min()),
            )
            if least > widest and min(map(len, pieces)) >= max(check.MIN_SECTION_SPOTS, _TAIL * len(order)):
                received = (
                    f"The positions are in {n_pieces} pieces with gaps of {least:.4g} and more, wider than "
                    f"the widest piece ({widest:.4g})."
                )
                remedy = "If they are sections, pass a column of obs that names them as section_key."
                yield Finding("sections", received, _RULE, remedy)
                return


def mixing(positions: CoordinateArray, codes: CellIndexArray) -> float:
    """How far groups lie among each other: 0 for groups that lie apart, about 1 for groups mixed at random.

    Parameters
    ----------
    positions
        Positions, shape ``(cell, axis)``.
    codes
        Group of each cell, shape ``(cell,)``.

    Returns
    -------
    Share of cells whose nearest neighbour is of another group, divided by what random mixing would give. Of
    many cells a sample is looked at, with its neighbours among all.
    """
    known = np.isfinite(positions).all(axis=1)
    positions, codes = positions[known], codes[known]
    expected = 1 - float(((np.bincount(codes) / max(len(codes), 1)) ** 2).sum())
    if len(positions) < 2 or expected <= 0:
        return 0.0
    rows = np.arange(len(positions))
    if len(rows) > _SAMPLE:
        rows = np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False)
    near = cKDTree(positions).query(positions[rows], k=2)[1]
    other = np.where(near[:, 0] == rows, near[:, 1], near[:, 0])  # doubled: either may be first
    return float((codes[other] != codes[rows]).mean()) / expected


def _declare(column: Column, received: str, *, sure: bool = False) -> Finding:
    """A finding whose remedy is to declare a column."""
    name = column.name or "section"
    what = f"pass section_key={name!r}"
    if not column.name:
        what = f"make a column of these parts of the names, such as obs[{name!r}], and {what}"
    elif not column.is_usable:
        what += ", without the cells whose value is missing or whose section has fewer than 3 cells"
    remedy = f"{what[0].upper()}{what[1:]}." if sure else f"If they are sections, {what}."
    parameters = {"section_key": name} if column.name and column.is_usable else {}
    return Finding("sections", received, _RULE, remedy, sure, parameters)


def _of(column: Column) -> str:
    if not column.name:
        some = ", ".join(map(repr, column.values[:3])) + (", ..." if len(column.values) > 3 else "")
        return f"the {len(column.values)} parts of the names of cells ({some})"
    return f'the {len(column.values)} values of obs["{column.name}"]'


# ---------------------------------------------------------------------------- outliers and units


def _axes(
    adata: AnnData, positions: CoordinateArray, known: np.ndarray, spatial_key: str
) -> Iterator[Finding]:
    """Columns that are no positions, the surest first."""
    where, rule = f'obsm["{spatial_key}"]', "Positions are x, y or x, y, z in one unit."
    names = [str(name) for name in getattr(adata.obsm[spatial_key], "columns", ())]
    kept = {*_Z_NAMES, *ARRAY, "row", "col"}
    wrong = [n for n in names if describes_cells(n) and n.lower() not in kept and not is_axis(n)]
    if wrong:
        rest = [name for name in names if name not in wrong]
        remedy = f"Store the positions only: adata.{where} = adata.{where}[{rest}]."
        if len(rest) < 2:
            remedy = "Store the positions there, or pass the key that holds them as `spatial_key`."
        yield Finding("axes", f"The column {wrong[0]!r} of {where} is no position.", rule, remedy, True)
    yield from _lattice(adata, positions, known, where)
    if positions.shape[1] < 3:
        return
    width, depth = np.ptp(positions[known, :2], axis=0).max(), np.ptp(positions[known, 2])
    remedy = "If it is no z, store x and y only."
    if names and not _may_be_z(names[2]):
        received = f"The third column of {where} is called {names[2]!r} and is taken as z."
        yield Finding("axes", received, rule, remedy)
    elif depth > _DEEP * width:
        received = f"The third column of {where} reaches over {depth:.4g}, the others over {width:.4g}."
        yield Finding("axes", received, rule, remedy)


def _may_be_z(name: str) -> bool:
    return axis_of(name)[0] == "z" or name.lower() in _Z_NAMES or bool(_NUMBERED.fullmatch(name))


def _lattice(adata: AnnData, positions: CoordinateArray, known: np.ndarray, where: str) -> Iterator[Finding]:
    """Row and column of an array in place of positions: those of Visium are a hexagonal lattice, squeezed."""
    places = positions[known, :2]
    lower = {str(name).lower(): str(name) for name in adata.obs}
    columns = [lower[name] for name in ARRAY if name in lower]
    row_first = None  # unless obs tells the order
    if len(columns) == len(ARRAY):
        array = adata.obs[columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)[known]
        row_first = next((order == 1 for order in (1, -1) if np.array_equal(places, array[:, ::order])), None)
    if is_hexagonal(places):
        if row_first is None:  # the slide has more columns than rows
            row_first = bool(np.ptp(places[:, 0]) < np.ptp(places[:, 1]))
        row, column = ("p[:, 0]", "p[:, 1]") if row_first else ("p[:, 1]", "p[:, 0]")
        remedy = f"p = adata.{where}; adata.{where} = np.column_stack([{column} / 2, {row} * 3**0.5 / 2])"
        received = f"{where} holds row and column of a Visium array, which are steps of different lengths."
        remedy = f"Store the pixels, or scale them to the hexagonal lattice: {remedy}."
        yield Finding("axes", received, "Positions are in one unit.", remedy, True)
    elif row_first is not None:
        received = f"{where} holds {columns[0]} and {columns[1]}: they are taken as places on a square array."
        yield Finding(
            "axes", received, "Positions are in one unit.", "On another array, store the positions."
        )


def _far_out(
    adata: AnnData, positions: CoordinateArray, codes: CellIndexArray, names: list[str]
) -> Iterator[Finding]:
    """Cells that lie several tissue widths away from their section."""
    for code, name in enumerate(names):
        rows = np.flatnonzero((codes == code) & np.isfinite(positions).all(axis=1))
        far = rows[far_out(positions[rows])]
        if len(far):
            some = ", ".join(f'"{cell}"' for cell in adata.obs_names[far[:3]]) + (
                ", ..." if len(far) > 3 else ""
            )
            where = f" of section {name!r}" if name else ""
            received = (
                f"{len(far)} of {len(rows)} cells{where} lie more than {_FAR:g} tissue widths away: {some}."
            )
            remedy = "Check their positions, or remove them: long distances would be theirs alone."
            yield Finding("outliers", received, "Cells of a section lie in one tissue.", remedy)


def far_out(positions: CoordinateArray) -> np.ndarray:
    """Mask of the cells that lie more than two widths away from the tissue.

    The width is the largest range of the positions without a twentieth of the cells at either end, so a piece
    of tissue with that share of cells is tissue.

    Parameters
    ----------
    positions
        Finite positions of one section, shape ``(cell, axis)``.
    """
    low = np.quantile(positions, _TAIL, axis=0, method="higher")
    high = np.quantile(positions, 1 - _TAIL, axis=0, method="lower")
    width = float((high - low).max(initial=0))
    beyond = np.maximum(low - positions, positions - high).max(axis=1)
    return beyond > _FAR * width if width > 0 else np.zeros(len(positions), dtype=bool)


def _units(
    positions: CoordinateArray, codes: CellIndexArray, names: list[str], *, is_declared: bool
) -> Iterator[Finding]:
    """Sections whose spacings differ so much that their units may."""
    found = {name: spacing(positions[codes == code]) for code, name in enumerate(names)}
    found = {name: value for name, value in found.items() if value > 0}
    if len(found) > 1 and max(found.values()) > _SPACINGS * min(found.values()):
        least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        received = (
            f"Neighbouring cells are {found[least]:.4g} apart in section {least!r} and {found[most]:.4g} in "
            f"section {most!r}: their units may differ."
        )
        remedy = "A section that is declared is measured in its own spacing"
        remedy += ", so a fit is not affected." if is_declared else "; here all have one unit."
        yield Finding("units", received, "Positions of a section are in one unit.", remedy)
