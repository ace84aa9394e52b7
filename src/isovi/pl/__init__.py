"""Plots: each function draws on the given Axes, or on a new figure that needs no display."""

from __future__ import annotations

from isovi.pl.autocorrelation import spatial_autocorrelation
from isovi.pl.distances import shepard
from isovi.pl.distortion_map import distortion_map
from isovi.pl.latent_map import latent_map
from isovi.pl.pareto import pareto
from isovi.pl.placement import placement
from isovi.pl.profile import certificate, distortion_profile
from isovi.pl.tissot import tissot, tissot_latents
from isovi.pl.tissue import domains, latent
from isovi.pl.training import history

__all__ = [
    "certificate",
    "distortion_map",
    "distortion_profile",
    "domains",
    "history",
    "latent",
    "latent_map",
    "pareto",
    "placement",
    "shepard",
    "spatial_autocorrelation",
    "tissot",
    "tissot_latents",
]
