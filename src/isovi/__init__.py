"""isoVI: distance-preserving generative models of spatial transcriptomics."""

from isovi.errors import InputError, IsoviError, IsoviWarning, OutputError
from isovi.graph import (
    AllPairs,
    Delaunay,
    Gaussian,
    Neighbors,
    Obsp,
    Radius,
    SameDomain,
)
from isovi.model.model import IsoSCVI, IsoVAE, preserve_distances
from isovi.model.objective import Constraint, Penalty

__version__ = "0.1.0"

__all__ = [
    "AllPairs",
    "Constraint",
    "Delaunay",
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
    "SameDomain",
    "preserve_distances",
]
