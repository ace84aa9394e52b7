"""Coordinates and sections as fields of scvi-tools' AnnDataManager, so that they ride in every minibatch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, NumericalObsField, ObsmField

from isovi._shapes import CellIndexArray, CoordinateArray
from isovi.data import check
from isovi.errors import InputError, IsoviWarning
from isovi.graph import PairKind, PairWeights
from isovi.spots import Spots

COORDINATES = "isovi_coordinates"
SECTION = "isovi_section"
CELL = REGISTRY_KEYS.INDICES_KEY  # of all numbers in obs, scvi-tools loads these alone as int64, so exactly
CELL_COLUMN = "_isovi_cell"
_FACTOR = 2.0  # between spacings, beyond which units may differ
_FEWEST = 10  # spots whose spacing says something


class CoordinatesField(ObsmField):
    """Coordinates of :class:`isovi.spots.Spots`, rounded to float32.

    The unit of each section is kept in the registry, and a known section keeps it on transfer to other
    data. Data without coordinates gets NaN, and single spots of it may have none (rows of NaN): such cells
    form no pairs.

    Parameters
    ----------
    spatial_key
        Key of the positions in ``obsm``.
    section_key
        Key of the section in ``obs``; ``None`` for a single section.
    source
        Registry of the model's reference data, when set up for other data.
    """

    def __init__(self, spatial_key: str, section_key: str | None, source: dict[str, Any] | None) -> None:
        super().__init__(COORDINATES, f"_{COORDINATES}")
        self.spatial_key, self.section_key, self.source = spatial_key, section_key, source

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Write the normalised coordinates; see :class:`CoordinatesField`."""
        state = self._write(adata, self.source)
        if self.source is not None and self.spatial_key in adata.obsm:
            self._warn_of_unit(adata)
        return state

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **_: Any
    ) -> dict[str, Any]:
        """Write the coordinates of other data in the units of the reference."""
        return self._write(adata_target, state_registry)

    def _write(self, adata: AnnData, source: dict[str, Any] | None) -> dict[str, Any]:
        if source is not None and self.spatial_key not in adata.obsm:
            adata.obsm[self.attr_key] = np.full((adata.n_obs, source["n_axes"]), np.nan, dtype=np.float32)
            return dict(source)
        raw = check.coordinates(adata, self.spatial_key, allow_missing=source is not None)
        self._same_axes(raw, source)
        codes, names = self._sections(adata, raw, source)
        known = {} if source is None else units_of(source)
        spots = Spots.at(raw, codes, names, units=known)
        adata.obsm[self.attr_key] = spots.coordinates.astype(np.float32)
        units = known | spots.units
        state = {"sections": list(units), "unit": list(units.values()), "n_axes": raw.shape[1]}
        return {self.COLUMN_NAMES_KEY: np.arange(raw.shape[1]), **state}

    def _warn_of_unit(self, adata: AnnData) -> None:
        """Say if positions of a section that the reference has seem to be in another unit."""
        spots = Spots.at(*self._raw(adata))
        known = units_of(self.source)
        for name, unit in spots.units.items():
            ratio = unit / known.get(name, np.nan)
            if int((spots.section == spots.sections.index(name)).sum()) >= _FEWEST and not (
                1 / _FACTOR <= ratio <= _FACTOR or np.isnan(ratio)
            ):
                which = "the query" if self.section_key is None else f"section {name!r}"
                warnings.warn(
                    f"Neighbouring spots are {unit:.4g} apart, in the reference {known[name]:.4g}: positions "
                    f"of {which} may be in another unit. They keep the unit of the reference. If they are of "
                    "another section, set the reference up with section_key: then each has its own unit.",
                    IsoviWarning,
                    stacklevel=2,
                )

    def _raw(self, adata: AnnData) -> tuple[CoordinateArray, CellIndexArray, list[str]]:
        raw = check.coordinates(adata, self.spatial_key, allow_missing=True)
        return raw, *self._sections(adata, raw, self.source)

    def _sections(
        self, adata: AnnData, raw: CoordinateArray, source: dict[str, Any] | None
    ) -> tuple[CellIndexArray, list[str]]:
        """Sections; those of other data may be a few of their spots only."""
        if source is None:
            codes, names = check.sections(adata, self.section_key)
            check.section_coordinates(raw, codes, names)
            return codes, names
        if self.section_key is None:
            return np.zeros(adata.n_obs, dtype=np.int64), ["all"]
        codes = check.categories(adata, self.section_key, role="section")
        return codes, [str(name) for name in check.occurring(adata.obs[self.section_key]).categories]

    def _same_axes(self, raw: CoordinateArray, source: dict[str, Any] | None) -> None:
        if source is not None and raw.shape[1] != source["n_axes"]:
            raise InputError(
                f"obsm[{self.spatial_key!r}] has {raw.shape[1]} columns.",
                f"The model was trained on {source['n_axes']}-D coordinates.",
                "Give coordinates with as many columns.",
            )


class SectionField(CategoricalObsField):
    """Section of each cell; sections that the reference did not have are added on transfer."""

    def __init__(self, section_key: str | None, source: dict[str, Any] | None) -> None:
        super().__init__(SECTION, section_key)
        self.section_key, self.source = section_key, source

    def validate_field(self, adata: AnnData) -> None:
        """Refuse a missing column and missing values."""
        if self.section_key is not None:
            check.categories(adata, self.section_key, role="section")
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Register the sections, keeping the codes of those that the reference had."""
        if self.source is None:
            return super().register_field(adata)
        return self.transfer_field(self.source, adata)

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **_: Any
    ) -> dict[str, Any]:
        """Register the sections of other data."""
        return super().transfer_field(state_registry, adata_target, extend_categories=True)


class CellField(NumericalObsField):
    """Row of each cell, by which sparse pair weights are looked up."""

    def __init__(self) -> None:
        super().__init__(CELL, CELL_COLUMN)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Number the cells."""
        adata.obs[CELL_COLUMN] = np.arange(adata.n_obs)
        return super().register_field(adata)

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]:
        """Number the cells of other data."""
        adata_target.obs[CELL_COLUMN] = np.arange(adata_target.n_obs)
        return super().transfer_field(state_registry, adata_target, **kwargs)


def spatial_fields(
    spatial_key: str, section_key: str | None, source_registry: dict[str, Any] | None
) -> list[Any]:
    """Fields that a distance-preserving model adds to its backbone's.

    Parameters
    ----------
    spatial_key, section_key
        Keys of the positions in ``obsm`` and of the section in ``obs``.
    source_registry
        Registry of the reference model when set up for loading or for a query.
    """
    states = {} if source_registry is None else source_registry["field_registries"]
    source = {key: states[key]["state_registry"] for key in (COORDINATES, SECTION) if key in states}
    return [
        SectionField(section_key, source.get(SECTION)),
        CoordinatesField(spatial_key, section_key, source.get(COORDINATES)),
        CellField(),
    ]


def registered_spots(manager: AnnDataManager) -> Spots:
    """Spots as they were registered, their coordinates rounded to float32 as the loaders have them."""
    state = manager.get_state_registry(COORDINATES)
    coordinates = np.asarray(manager.get_from_registry(COORDINATES)).astype(np.float64)
    section = np.asarray(manager.get_from_registry(SECTION)).ravel().astype(np.int64)
    names = tuple(map(str, manager.get_state_registry(SECTION).categorical_mapping))
    units = units_of(state)
    return Spots(coordinates, section, names, np.array([units.get(name, np.nan) for name in names]))


def units_of(state: Any) -> dict[str, float]:
    """Unit of each section by name, from a registry of this version or of 0.1.0."""
    if "units" in state:  # 0.1.0 kept a dictionary, whose keys must not hold a dot
        return dict(state["units"])
    return dict(zip(map(str, state["sections"]), map(float, state["unit"]), strict=True))


def pair_weights(adata: AnnData, spots: Spots, pairs: PairKind) -> PairWeights:
    """Pair weights of a kind, bound to spots of an AnnData.

    Parameters
    ----------
    adata
        Data whose ``obs`` and ``obsp`` the kind may read.
    spots
        Some of its spots, or all.
    pairs
        Kind of pairs.

    Raises
    ------
    InputError
        If ``obs`` or ``obsp`` lacks what ``pairs`` names.
    """
    rows = spots.row
    columns = {key: check.categories(adata, key, role="pairs")[rows] for key in pairs.obs_keys}
    matrices = {key: check.pair_matrix(adata, key)[rows][:, rows] for key in pairs.obsp_keys}
    return pairs.fit(spots, columns, matrices)
