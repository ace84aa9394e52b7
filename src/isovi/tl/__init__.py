"""Tools for latent representations: geometry, metrics, spatial domains, placement."""

from __future__ import annotations

from isovi.data.fingerprint import training_split
from isovi.geometry.pairs import pair_distances
from isovi.tl.autocorrelation import autocorrelation_table, spatial_autocorrelation
from isovi.tl.certificate import certificate
from isovi.tl.distortion_map import distortion_map
from isovi.tl.domains import choose_n_domains, coordinate_domains, domains, ring_means
from isovi.tl.evaluate import METRICS as METRICS
from isovi.tl.evaluate import Metric, evaluate_fit, evaluate_geometry
from isovi.tl.metrics import (
    clustering_agreement,
    coordinate_error,
    gearys_c,
    gearys_c_per_dimension,
    is_labelled,
    lognorm_squared_error,
    morans_i,
    morans_i_per_dimension,
    mse_lognorm,
    spatial_neighbors,
    spearman_distance,
)
from isovi.tl.mixing import mixing, mixing_of
from isovi.tl.pairwise import pairwise_distance
from isovi.tl.place import PlacedCells, SpatialPlacer
from isovi.tl.placement_error import contact_f1, placement_error
from isovi.tl.profile import distortion_profile
from isovi.tl.smoothing import Smoothed, smooth
from isovi.tl.tissot import tissot

__all__ = [
    "Metric",
    "PlacedCells",
    "Smoothed",
    "SpatialPlacer",
    "autocorrelation_table",
    "certificate",
    "choose_n_domains",
    "clustering_agreement",
    "contact_f1",
    "coordinate_domains",
    "coordinate_error",
    "distortion_map",
    "distortion_profile",
    "domains",
    "evaluate_fit",
    "evaluate_geometry",
    "gearys_c",
    "gearys_c_per_dimension",
    "is_labelled",
    "lognorm_squared_error",
    "mixing",
    "mixing_of",
    "morans_i",
    "morans_i_per_dimension",
    "mse_lognorm",
    "pair_distances",
    "pairwise_distance",
    "placement_error",
    "ring_means",
    "smooth",
    "spatial_autocorrelation",
    "spatial_neighbors",
    "spearman_distance",
    "tissot",
    "training_split",
]
