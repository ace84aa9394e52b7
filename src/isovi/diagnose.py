"""Geometry of a run: profile, certificate, ellipses and map, held-out spots first."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isovi import pl, tl
from isovi.data import io
from isovi.errors import IsoviWarning
from isovi.geometry.profile import DistortionProfile, ProfilePoint
from isovi.run import LATENT_KEY, Run
from isovi.spots import HELDOUT, TRAIN
from isovi.tl.certificate import Certificate
from isovi.tl.tissot import summary

NAMES = {HELDOUT: "held out", TRAIN: "training, largely memorised"}
PLOTS = ("distortion_profile", "certificate", "distortion_map", "tissot_*", "autocorrelation")


def diagnose(run: Run | str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Measure the geometry of a run; of one on disk, write ``diagnosis.json`` and plots into its folder.

    Parameters
    ----------
    run
        A run, or its folder, whose other files are not changed.
    trust
        As for :meth:`isovi.Run.read`, of a folder.

    Returns
    -------
    What ``diagnosis.json`` holds: ``profile`` with ``heldout``, ``train`` and ``posterior`` (held-out again,
    over samples of the posterior), each a list of ``epsilon``, ``L``, ``scale``, and ``bins``, the held-out
    profile by range of tissue distance; ``certificate`` (pairs matched by range) and
    ``certificate_random_pairs``, with ``n_pairs``, ``delta``, ``eta``, ``basis``, ``curve`` and ``point``;
    ``anisotropy`` and ``area``, quantiles by part; ``distortion_map``; ``autocorrelation``.

    Raises
    ------
    InputError
        If the folder holds no run.
    """
    run = run if isinstance(run, Run) else Run.read(run, trust=trust)
    profiles = _profiles(run)
    certificates = _certificates(run)
    found = {
        "profile": _profile_record(profiles),
        **{name: _certificate_record(one) for name, one in certificates.items()},
        **_ellipses(run),
        "distortion_map": _map(run),
        "autocorrelation": _autocorrelation(run),
    }
    if run.folder is not None:
        _draw(run, run.folder / "figures", profiles, certificates)
        io.write_json(run.folder / "diagnosis.json", found)
    return found


# ---------------------------------------------------------------------------- measuring


def _profiles(run: Run) -> dict[str, DistortionProfile]:
    """Profiles by part, held-out first; also over samples of the posterior of the first part."""
    parts = run.parts()
    found = {
        part: tl.distortion_profile(
            run.adata, use_rep=LATENT_KEY, cells=cells, seed=run.settings.seed, **run.settings.keys
        )
        for part, cells in parts.items()
    }
    if run.adata.X is None:  # of packed data, whose counts stayed where they were
        return found
    asked: dict[str, Any] = {
        "cells": next(iter(parts.values())),
        "model": run.model,
        "seed": run.settings.seed,
    }
    return found | {"posterior": tl.distortion_profile(run.model_data(), **run.settings.keys, **asked)}


def _certificates(run: Run) -> dict[str, Certificate]:
    if HELDOUT not in run.parts():
        return {}
    return {
        "certificate": run.certificate(matched=True),
        "certificate_random_pairs": run.certificate(matched=False),
    }


def _ellipses(run: Run) -> dict[str, Any]:
    """Quantiles of anisotropy and area of each part among its own spots; the map of all spots stays."""
    told: dict[str, Any] = {"anisotropy": {}, "area": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots without an ellipse: their number is given
        for part, cells in {**run.parts(), "all": None}.items():
            found = summary(tl.tissot(run.adata, use_rep=LATENT_KEY, cells=cells, **run.settings.keys))
            for name, quantiles in told.items():
                shares = [f"{share:g}" for share in found["quantiles"]]
                quantiles[part] = dict(zip(shares, found[name], strict=True))
    return told


def _map(run: Run) -> dict[str, Any]:
    """Quantiles over the spots of each part; the map is made over all spots."""
    found = tl.distortion_map(run.adata, use_rep=LATENT_KEY, seed=run.settings.seed, **run.settings.keys)
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        part: {f"{share:g}": float(np.nanquantile(found.distortion[cells], share)) for share in shares}
        for part, cells in run.parts().items()
    }


def _autocorrelation(run: Run) -> dict[str, Any]:
    """Moran's I and Geary's C with p-values, of the held-out spots among themselves if there are such."""
    cells = next(iter(run.parts().values()))
    table = tl.spatial_autocorrelation(run.adata, use_rep=LATENT_KEY, cells=cells, **run.settings.keys)
    return {str(dimension): dict(row) for dimension, row in table.iterrows()}


# ---------------------------------------------------------------------------- records


def _points(curve: Iterable[ProfilePoint]) -> list[dict[str, float]]:
    return [asdict(point) for point in curve]


def _profile_record(profiles: dict[str, DistortionProfile]) -> dict[str, Any]:
    first = next(iter(profiles.values()))
    bins = [
        {
            "low": part.low,
            "high": part.high,
            "n_pairs": part.profile.n_pairs,
            "curve": _points(part.profile.curve()),
        }
        for part in first.bins
    ]
    told = {part: _points(profiles[part].curve()) if part in profiles else None for part in NAMES}
    sampled = _points(profiles["posterior"].curve()) if "posterior" in profiles else None
    return {**told, "posterior": sampled, "bins": bins, "unit": "spacing"}


def _certificate_record(found: Certificate) -> dict[str, Any]:
    point = None if found.point is None else asdict(found.for_epsilon(found.point.epsilon))
    return {
        "n_pairs": found.n_pairs,
        "delta": found.delta,
        "eta": found.eta,
        "basis": found.basis,
        "curve": _points(found.curve.curve()),
        "point": point,
        "measured": _points(found.curve.profile.curve()),
    }


def _draw(
    run: Run, folder: Path, profiles: dict[str, DistortionProfile], certificates: dict[str, Certificate]
) -> None:
    folder.mkdir(exist_ok=True)
    named = {name: profiles[part] for part, name in NAMES.items() if part in profiles}
    pl.distortion_profile(named, save=folder / "distortion_profile.png")
    if certificates:
        names = ("matched by range", "random pairs")
        pl.certificate(dict(zip(names, certificates.values(), strict=True)), save=folder / "certificate.png")
    pl.distortion_map(run.adata, **run.settings.keys, save=folder / "distortion_map.png")
    for basis in ("spatial", "latent"):
        pl.tissot(run.adata, basis=basis, save=folder / f"tissot_{basis}.png")
    pl.spatial_autocorrelation(run.adata, save=folder / "autocorrelation.png")
