"""Pictures: each function draws on the given Axes, or on a new figure that needs no display."""

from __future__ import annotations

from isovi.pl.distances import shepard
from isovi.pl.latent_map import latent_map
from isovi.pl.placement import placement
from isovi.pl.tissue import domains, latent
from isovi.pl.training import history

__all__ = ["domains", "history", "latent", "latent_map", "placement", "shepard"]
