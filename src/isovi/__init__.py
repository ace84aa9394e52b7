"""isoVI: distance-preserving generative models of spatial transcriptomics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isovi import pl, tl
    from isovi.errors import InputError, IsoviError, IsoviWarning, OutputError
    from isovi.graph import AllPairs, Delaunay, Gaussian, Neighbors, Obsp, Radius, SameDomain
    from isovi.model.checkpoint import EpochCheckpoint
    from isovi.model.model import IsoSCVI, IsoVAE, preserve_distances
    from isovi.model.objective import Constraint, Penalty
    from isovi.pipeline import fit
    from isovi.run import Run

__version__ = "0.1.0"

_HOMES = {
    "isovi.errors": ("InputError", "IsoviError", "IsoviWarning", "OutputError"),
    "isovi.graph": ("AllPairs", "Delaunay", "Gaussian", "Neighbors", "Obsp", "Radius", "SameDomain"),
    "isovi.model.checkpoint": ("EpochCheckpoint",),
    "isovi.model.model": ("IsoSCVI", "IsoVAE", "preserve_distances"),
    "isovi.model.objective": ("Constraint", "Penalty"),
    "isovi.pipeline": ("fit",),
    "isovi.run": ("Run",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_SUBPACKAGES = ("pl", "tl")

__all__ = [
    "AllPairs",
    "Constraint",
    "Delaunay",
    "EpochCheckpoint",
    "Gaussian",
    "InputError",
    "IsoSCVI",
    "IsoVAE",
    "IsoviError",
    "IsoviWarning",
    "Neighbors",
    "Obsp",
    "OutputError",
    "Penalty",
    "Radius",
    "Run",
    "SameDomain",
    "fit",
    "pl",
    "preserve_distances",
    "tl",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import isovi`` costs no torch."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"isovi.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'isovi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
