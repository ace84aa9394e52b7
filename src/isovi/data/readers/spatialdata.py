"""SpatialData: a table of counts, with positions from the elements that it annotates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.data.columns import ids, some
from isovi.data.readers.annotated import read_anndata, zarr_group
from isovi.data.readers.safe import require_safe_zarr
from isovi.data.readers.source import INPUT_KEY, POSITIONS_KEY, Reader, need_extra, readable
from isovi.data.readers.spatialdata_image import add_images
from isovi.data.readers.visium import BIN
from isovi.errors import InputError, IsoviWarning

ATTRS_KEY = "spatialdata_attrs"  # in uns of a table, and in the attributes of a store
ELEMENTS = ("shapes", "labels", "points")  # that a table can annotate
OWN = "each element its own"
_REMEDY = "Write it anew with sdata.write(...)."
_LAZY = tuple(f"{start}{level}" for start in ("", "s", "scale") for level in range(16))  # of a raster


@dataclass(frozen=True)
class SpatialDataStore(Reader):
    """A table of a SpatialData store.

    Attributes
    ----------
    path
        The store.
    asked_table, asked_system
        Table and coordinate system to read, if several are possible.
    """

    kind = "SpatialData"
    path: Path
    asked_table: str | None = None
    asked_system: str | None = None

    @cached_property
    def tables(self) -> dict[str, Path]:
        """Folders of the tables, by name."""
        with readable(self.path, "SpatialData", _REMEDY):
            group = zarr_group(self.path)
            parent = "tables" if "tables" in group else "table"  # the first versions of the format
            return {name: self.path / parent / name for name in sorted(group.get(parent, {}))}

    @property
    def table(self) -> str:
        """Name of the table that is read."""
        return choose_table(list(self.tables), self.asked_table, f'"{self.path}"')

    @cached_property
    def regions(self) -> list[str]:
        """Elements that the table annotates."""
        with readable(self.path, "SpatialData", _REMEDY):
            annotation = zarr_group(self.tables[self.table]).get("uns", {})
            attrs = anndata.io.read_elem(annotation[ATTRS_KEY]) if ATTRS_KEY in annotation else {}
        return regions_of(attrs)

    @property
    def files(self) -> tuple[Path, ...]:
        """The table and its elements; images do not count."""
        places = [self.path / kind / name for name in self.regions for kind in ELEMENTS]
        return self.tables[self.table], *(place for place in places if place.is_dir())

    @property
    def unit(self) -> str:
        """That of the coordinate system: the format has no other."""
        return "that of the coordinate system"

    @property
    def about(self) -> dict[str, str]:
        """The table, and the elements with its positions."""
        return {"table": self.table, "elements": ", ".join(self.regions)}

    @cached_property
    def elements(self) -> dict[str, Any]:
        """The elements that the table annotates, by name; rasters are read lazily."""
        try:
            import spatialdata
        except ImportError as error:
            raise need_extra("spatialdata", f'"{self.path}"') from error
        found = {place.parent.name for place in self.files[1:]}
        if not found:
            return {}
        with readable(self.path, "SpatialData", _REMEDY), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of the format
            for place in self.files[1:]:
                require_safe_zarr(place, lazy=_LAZY)
            sdata: Any = spatialdata.read_zarr(self.path, selection=tuple(sorted(found)))
        return {name: sdata[name] for name in self.regions if name in sdata}

    def images(self) -> Mapping[str, Any]:
        """Images of the store by name, read lazily; none, with a note, if they cannot be."""
        import spatialdata

        try:
            for place in (self.path / "images").glob("*/"):
                require_safe_zarr(place, lazy=_LAZY)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other versions of the format
                return dict(spatialdata.read_zarr(self.path, selection=("images",)).images)
        except Exception as error:  # noqa: BLE001  # of readers and codecs
            text = f"The images were left out ({type(error).__name__}: {str(error).splitlines()[0][:200]})."
            warnings.warn(text, IsoviWarning, stacklevel=2)
            return {}

    def read(self) -> AnnData:
        """The table, with the centroids of its elements as positions and a reduced image of each."""
        adata = read_anndata(self.tables[self.table], zarr=True)
        self.sign(adata)
        if not self.elements:  # positions may be in the table itself
            return adata
        positions, system = centroids(adata, self.elements, self.asked_system)
        if POSITIONS_KEY in adata.obsm and not same(adata.obsm[POSITIONS_KEY], positions):
            warnings.warn(
                f'Positions are the centroids in coordinate system "{system}"; the table\'s own '
                f'obsm["{POSITIONS_KEY}"] differs and is not used.',
                IsoviWarning,
                stacklevel=2,
            )
        adata.obsm[POSITIONS_KEY] = positions
        adata.uns[INPUT_KEY]["coordinate_system"] = system
        if (self.path / "images").is_dir():
            of = adata.obs[adata.uns[ATTRS_KEY]["region_key"]].astype(str).to_numpy()
            known = {name: _systems(element) for name, element in self.elements.items()}
            add_images(adata, self.images(), of, choose_systems(known, self.asked_system))
        placed = np.isfinite(positions).all(axis=1)
        if not placed.all():
            text = f"{int((~placed).sum())} of {len(placed)} cells are in no element and are left out."
            warnings.warn(text, IsoviWarning, stacklevel=2)
        return adata if placed.all() else adata[placed].copy()


def is_spatialdata(path: Path) -> bool:
    """Whether a zarr store is SpatialData: its root has elements where AnnData has annotation."""
    return any((path / name).is_dir() for name in (*ELEMENTS, "tables", "table", "images")) and not (
        (path / "obs").exists()
    )


def choose_table(names: list[str], asked: str | None, where: str, parameter: str = "table") -> str:
    """The table of that name, or the default one.

    Parameters
    ----------
    names
        Names of the tables.
    asked
        Name of one of them. By default the table called ``table``, the bins of 8 µm, or the only table.
    where
        Name of the input, for messages.
    parameter
        Name of the caller's parameter, for messages.

    Raises
    ------
    InputError
        If there is no table, no such table, or no default among several.
    """
    listed = ", ".join(f'"{name}"' for name in names) or "none"
    if asked is not None and asked not in names:
        raise InputError(
            f'{where} has no table "{asked}"; it has: {listed}.',
            "Counts are read from a table.",
            f"Name one of them as `{parameter}`.",
        )
    meant = [asked] if asked is not None else [name for name in ("table", BIN) if name in names] or names
    if not meant:
        raise InputError(
            f"{where} has no table.",
            "Counts are read from a table.",
            "Aggregate the elements first: spatialdata.aggregate.",
        )
    if asked is None and meant == names and len(names) > 1:
        raise InputError(
            f"{where} has the tables {listed}.",
            "Counts are read from one table.",
            f"Name it as `{parameter}`.",
        )
    return meant[0]


def regions_of(attrs: Any) -> list[str]:
    """Elements that a table annotates, according to its attributes; none if those are not SpatialData's."""
    if not (isinstance(attrs, Mapping) and isinstance(attrs.get("region_key"), str)):
        return []
    region = attrs.get("region")
    return [] if region is None else [str(name) for name in np.atleast_1d(region)]


def centroids(
    table: AnnData, elements: Mapping[str, Any], asked: str | None = None
) -> tuple[np.ndarray, str]:
    """Positions of the cells of a table.

    Parameters
    ----------
    table
        Table with the element and instance of each cell.
    elements
        Shapes, labels or points that the table annotates, by name.
    asked
        Coordinate system. By default ``"global"``, or the only one that all elements have, or the one named
        after each element.

    Returns
    -------
    Centroids, shape ``(cell, 2)`` or ``(cell, 3)``, NaN for cells that are in no element, and their
    coordinate system.

    Raises
    ------
    InputError
        If the coordinate system is missing or ambiguous, or no cell is in an element.
    """
    systems = choose_systems({name: _systems(element) for name, element in elements.items()}, asked)
    attrs = table.uns[ATTRS_KEY]
    region, instance = table.obs[attrs["region_key"]].astype(str), table.obs[attrs["instance_key"]]
    found = {name: _centroids(element, systems[name]) for name, element in elements.items()}
    positions = np.full((table.n_obs, max(frame.shape[1] for frame in found.values())), np.nan)
    for name, frame in found.items():
        of = (region == name).to_numpy()
        positions[of, : frame.shape[1]] = frame.reindex(_as_index(instance[of], frame.index)).to_numpy()
    if not np.isfinite(positions).all(axis=1).any():
        of_elements = ids(next(iter(found.values())).index)
        raise InputError(
            f"No cell of the table is in {', '.join(elements)}: the table has {some(ids(instance))}, "
            f"the elements have {some(of_elements)}.",
            f"Its column {attrs['instance_key']!r} names instances of the elements.",
            "Name them alike, or read the table alone (in the store under tables/) with `coordinates`.",
        )
    names = set(systems.values())
    return positions, names.pop() if len(names) == 1 else OWN


def _as_index(instances: pd.Series, index: pd.Index) -> pd.Index:
    """Instances as the elements have them: one may hold numbers where the other holds text."""
    found, by_id = pd.Index(instances), pd.Series(index, index=ids(index))
    if found.isin(index).all() or not by_id.index.is_unique:
        return found
    other = pd.Index(by_id.reindex(ids(instances)).to_numpy())
    return max(found, other, key=lambda way: int(way.isin(index).sum()))


def choose_systems(known: Mapping[str, list[str]], asked: str | None) -> dict[str, str]:
    """Coordinate system for each element.

    Parameters
    ----------
    known
        Coordinate systems of each element.
    asked
        Name of one of them, if given.
    """
    shared = [name for name in next(iter(known.values())) if all(name in have for have in known.values())]
    chosen = asked if asked is not None else "global" if "global" in shared else None
    if chosen is None and len(shared) == 1:
        chosen = shared[0]
    if chosen is not None and chosen in shared:
        return dict.fromkeys(known, chosen)
    if asked is None and all(_own(name, have) for name, have in known.items()):
        return {name: str(_own(name, have)) for name, have in known.items()}
    listed = "; ".join(f"{name}: {', '.join(have)}" for name, have in known.items())
    missing = "" if asked is None else f'; `coordinate_system` is "{asked}"'
    raise InputError(
        f"The elements of the table have the coordinate systems {listed}{missing}.",
        "All must be in the same one.",
        "Name one that all have as `coordinate_system`.",
    )


def _own(name: str, systems: list[str]) -> str | None:
    """The coordinate system of this element alone, as in Visium samples."""
    return name if name in systems else systems[0] if len(systems) == 1 else None


def _systems(element: Any) -> list[str]:
    from spatialdata.transformations import get_transformation

    return list(get_transformation(element, get_all=True))


def _centroids(element: Any, system: str) -> pd.DataFrame:
    from spatialdata import get_centroids

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chatter of dask and zarr
        return get_centroids(element, coordinate_system=system).compute()


def same(given: Any, positions: np.ndarray) -> bool:
    """Whether positions are equal to those that are there already."""
    given = np.asarray(given)
    return given.shape == positions.shape and np.allclose(given, positions, equal_nan=True)


def place_table(
    sdata: Any, table_name: str | None, coordinate_system: str | None, key: str, section_key: str | None
) -> AnnData:
    """Put the positions of a table's cells into its ``obsm``.

    Parameters
    ----------
    sdata
        :class:`spatialdata.SpatialData`.
    table_name, coordinate_system
        As for :func:`choose_table` and :func:`centroids`.
    key
        Key in ``obsm`` of the table to write.
    section_key
        Column of ``obs`` with the section, for :func:`require_sections`.

    Returns
    -------
    The table itself, not a copy.

    Raises
    ------
    InputError
        If there is no such table or coordinate system, or the key holds other positions.
    """
    name = choose_table(list(sdata.tables), table_name, "sdata", "table_name")
    table = sdata.tables[name]
    elements = {
        region: sdata[region] for region in regions_of(table.uns.get(ATTRS_KEY, {})) if region in sdata
    }
    if not elements:  # positions may be in the table itself
        return table
    positions, system = centroids(table, elements, coordinate_system)
    require_sections(table.uns[ATTRS_KEY], system, section_key)
    if key in table.obsm and not same(table.obsm[key], positions):
        raise InputError(
            f'obsm["{key}"] of table "{name}" differs from the centroids in coordinate system "{system}".',
            "Existing positions are not overwritten.",
            f'Pass another key, spatial_key="{key}_centroids", or the other `coordinate_system`.',
        )
    if key not in table.obsm:
        table.obsm[key] = positions
    return table


def require_sections(attrs: Mapping[str, Any] | None, system: str | None, section_key: str | None) -> None:
    """Check that elements in different coordinate systems are treated as sections.

    Parameters
    ----------
    attrs, system, section_key
        SpatialData attributes of the table, the coordinate system of the positions from :func:`centroids`,
        and the column of ``obs`` with the section.

    Raises
    ------
    InputError
        If positions in different coordinate systems would be mixed.

    Warns
    -----
    IsoviWarning
        If several elements are treated as one section.
    """
    regions = regions_of(attrs or {})
    if section_key is not None or len(regions) < 2:
        return
    key, listed = (attrs or {})["region_key"], ", ".join(regions)
    if system == OWN:
        raise InputError(
            f"The table's elements {listed} share no coordinate system.",
            "Distances are compared within one coordinate system.",
            f"Treat them as sections: section_key={key!r}.",
        )
    warnings.warn(
        f"The table's elements {listed} are treated as one section in {system!r}. "
        f"If they are sections, pass section_key={key!r}.",
        IsoviWarning,
        stacklevel=3,
    )


def require_known_sections(adata: AnnData) -> None:
    """:func:`require_sections`, where none were declared, for data from :func:`isovi.data.io.read`."""
    system = adata.uns.get(INPUT_KEY, {}).get("coordinate_system")
    if system is not None:
        require_sections(adata.uns.get(ATTRS_KEY), str(system), None)
