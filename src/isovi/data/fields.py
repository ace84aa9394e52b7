"""Coordinates and sections as fields of scvi-tools' AnnDataManager, so that they ride in every minibatch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, NumericalObsField, ObsmField

from isovi._shapes import CellIndexArray, CoordinateArray
from isovi.data import check
from isovi.errors import InputError
from isovi.graph import PairKind, Tissue

COORDINATES = "isovi_coordinates"
SECTION = "isovi_section"
CELL = REGISTRY_KEYS.INDICES_KEY  # of all numbers in obs, scvi-tools loads these alone as int64, so exactly
CELL_COLUMN = "_isovi_cell"


class CoordinatesField(ObsmField):
    """Coordinates centred per section and divided by one unit per section.

    The unit is the median nearest-neighbour distance of the section, kept in the registry so that
    lengths can be told in the units of ``obsm[spatial_key]``. On transfer to other data a known
    section keeps its unit. Data without coordinates gets not-a-number, and single spots of it may be
    without (rows of not-a-number): such cells form no pairs.

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
        return self._write(adata, self.source)

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
        known = {} if source is None else source["units"]
        normalised, placed = np.full(raw.shape, np.nan, dtype=np.float32), np.isfinite(raw).all(axis=1)
        normalised[placed], units = normalise(raw[placed], codes[placed], names, known)
        adata.obsm[self.attr_key] = normalised
        return {self.COLUMN_NAMES_KEY: np.arange(raw.shape[1]), "units": units, "n_axes": raw.shape[1]}

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
        return codes, list(pd.Categorical(adata.obs[self.section_key]).remove_unused_categories().categories)

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


def normalise(
    raw: CoordinateArray, codes: CellIndexArray, names: list[str], known: dict[str, float]
) -> tuple[np.ndarray, dict[str, float]]:
    """Centre each section and divide it by its unit.

    Parameters
    ----------
    raw
        Positions as given, shape ``(cell, axis)``.
    codes, names
        Section code of each cell, and the names the codes stand for.
    known
        Units of sections seen before, which are kept.

    Returns
    -------
    coordinates
        float32, in units of the median nearest-neighbour distance, shape ``(cell, axis)``.
    units
        That distance for every section, in the units of ``raw``.
    """
    normalised = np.empty(raw.shape, dtype=np.float32)
    units = dict(known)
    for code in np.unique(codes):
        of = codes == code
        name = str(names[code])
        units.setdefault(name, spacing(raw[of]))
        normalised[of] = (raw[of] - raw[of].mean(axis=0)) / units[name]
    return normalised, units


def spacing(positions: CoordinateArray) -> float:
    """Median distance to the nearest neighbour at another place; not a number if there is none."""
    places = np.unique(positions, axis=0)
    if len(places) < 2:
        return float("nan")
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))


def tissue_of(manager: AnnDataManager, pairs: PairKind) -> Tissue:
    """The registered tissue, with the columns and matrices that a kind of pairs reads.

    Raises
    ------
    InputError
        If ``obs`` or ``obsp`` lacks what ``pairs`` names.
    """
    adata = manager.adata
    columns = {key: check.categories(adata, key, role="pairs") for key in pairs.obs_keys}
    matrices = {key: check.pair_matrix(adata, key) for key in pairs.obsp_keys}
    section = np.asarray(manager.get_from_registry(SECTION)).ravel().astype(np.int64)
    return Tissue(np.asarray(manager.get_from_registry(COORDINATES)), section, columns, matrices)
