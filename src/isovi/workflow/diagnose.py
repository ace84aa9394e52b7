"""Geometry of a finished run: profile, certificate, ellipses and map, held-out spots first."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from isovi import pl, tl
from isovi.data import io
from isovi.errors import IsoviWarning
from isovi.geometry.profile import DistortionProfile, ProfilePoint
from isovi.spots import HELDOUT
from isovi.tl.certificate import Certificate
from isovi.tl.tissot import summary
from isovi.workflow.finished import BACKBONES, GENE_KEY, LATENT_KEY, NAMES, Run, read
from isovi.workflow.guarantee import certificate

SHOWN = (0.05, 0.1, 0.2)  # ε of the printed table


def diagnose(folder: Path) -> dict[str, Any]:
    """Measure the geometry of a run, and write ``diagnosis.json`` and pictures into its folder.

    Parameters
    ----------
    folder
        Written by :func:`isovi.workflow.fit.fit`; its other files are not changed.

    Returns
    -------
    What ``diagnosis.json`` holds: ``profile`` with ``heldout``, ``train`` and ``posterior`` (held-out again,
    over samples of the posterior), each a list of ``epsilon``, ``L``, ``scale``, and ``bins``, the held-out
    profile by range of tissue distance; ``certificate`` (pairs matched by range) and
    ``certificate_random_pairs``, with ``n_pairs``, ``delta``, ``eta``, ``curve`` and ``point``;
    ``anisotropy`` and ``area``, quantiles by part; ``distortion_map``; ``autocorrelation``.

    Raises
    ------
    InputError
        If the folder holds no finished run.
    """
    run = read(folder)
    profiles = _profiles(run)
    certificates = _certificates(run)
    found = {
        "profile": _profile_record(profiles),
        **{name: _certificate_record(one) for name, one in certificates.items()},
        **_ellipses(run),
        "distortion_map": _map(run),
        "autocorrelation": _autocorrelation(run),
    }
    _draw(run, profiles, certificates)
    io.write_json(run.folder / "diagnosis.json", found)
    return found


# ---------------------------------------------------------------------------- measuring


def _profile(run: Run, cells: np.ndarray, model: Any = None) -> DistortionProfile:
    asked: dict[str, Any] = {"cells": cells, "model": model, "key_added": "isovi_profile", "seed": run.seed}
    return tl.distortion_profile(run.adata, use_rep=LATENT_KEY, **run.keys, **asked)


def _profiles(run: Run) -> dict[str, DistortionProfile]:
    """Profiles by part, held-out first; also over samples of the posterior of the first part."""
    parts = run.parts()
    found = {part: _profile(run, cells) for part, cells in parts.items()}
    if run.adata.X is None:  # a packed run: its counts stayed where they were
        return found
    used = run.adata[:, run.adata.var[GENE_KEY].to_numpy(dtype=bool)].copy()
    model = BACKBONES[str(run.adata.uns["isovi"]["backbone"])].load(str(run.folder / "model"), adata=used)
    sampled = Run(run.folder, used, run.keys, run.seed)
    return found | {"posterior": _profile(sampled, next(iter(parts.values())), model)}


def _certificates(run: Run) -> dict[str, Certificate]:
    if HELDOUT not in run.parts():
        return {}
    return {
        "certificate": certificate(run, matched=True),
        "certificate_random_pairs": certificate(run, matched=False),
    }


def _ellipses(run: Run) -> dict[str, Any]:
    """Quantiles of anisotropy and area of each part among its own spots; the map of all spots stays."""
    told: dict[str, Any] = {"anisotropy": {}, "area": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots without an ellipse: their number is told
        for part, cells in {**run.parts(), "all": None}.items():
            found = summary(tl.tissot(run.adata, use_rep=LATENT_KEY, cells=cells, **run.keys))
            for name, quantiles in told.items():
                shares = [f"{share:g}" for share in found["quantiles"]]
                quantiles[part] = dict(zip(shares, found[name], strict=True))
    return told


def _map(run: Run) -> dict[str, Any]:
    """Quantiles over the spots of each part; the map is made over all spots."""
    found = tl.distortion_map(run.adata, use_rep=LATENT_KEY, seed=run.seed, **run.keys)
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        part: {f"{share:g}": float(np.nanquantile(found.distortion[cells], share)) for share in shares}
        for part, cells in run.parts().items()
    }


def _autocorrelation(run: Run) -> dict[str, Any]:
    """Moran's I and Geary's C with p-values, of the held-out spots among themselves if there are such."""
    cells = next(iter(run.parts().values()))
    table = tl.spatial_autocorrelation(run.adata, use_rep=LATENT_KEY, cells=cells, **run.keys)
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
        "curve": _points(found.curve.curve()),
        "point": point,
        "measured": _points(found.curve.profile.curve()),
    }


def _draw(run: Run, profiles: dict[str, DistortionProfile], certificates: dict[str, Certificate]) -> None:
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    named = {name: profiles[part] for part, name in NAMES.items() if part in profiles}
    pl.distortion_profile(named, save=folder / "distortion_profile.png")
    if certificates:
        names = ("matched by range", "random pairs")
        pl.certificate(dict(zip(names, certificates.values(), strict=True)), save=folder / "certificate.png")
    pl.distortion_map(run.adata, **run.keys, save=folder / "distortion_map.png")
    for basis in ("spatial", "latent"):
        pl.tissot(run.adata, basis=basis, save=folder / f"tissot_{basis}.png")
    pl.spatial_autocorrelation(run.adata, save=folder / "autocorrelation.png")


# ---------------------------------------------------------------------------- what is printed


def table(found: dict[str, Any]) -> Table:
    """The figures of a diagnosis, held-out first."""
    parts = [part for part in NAMES if found["profile"][part] is not None]
    shown = Table(title="Distances kept within a factor L for all but a share ε of pairs")
    shown.add_column("")
    for part in parts:
        shown.add_column(NAMES[part], justify="right")
    for epsilon in SHOWN:
        values = [_at(found["profile"][part], epsilon) for part in parts]
        shown.add_row(f"L({epsilon:g})", *map(_number, values))
    for name, part in zip(("short", "middle", "long"), found["profile"]["bins"], strict=False):
        row = f"L(0.1), {name} range (to {part['high']:.3g} spacings)"
        shown.add_row(row, _number(_at(part["curve"], 0.1)), *[""] * (len(parts) - 1))
    for name in ("anisotropy", "area"):
        shown.add_row(f"{name} of ellipses, median", *(_number(found[name][part]["0.5"]) for part in parts))
    return shown


def certified(found: dict[str, Any]) -> list[str]:
    """Plain sentences on what is certified, or why nothing is."""
    if "certificate" not in found:
        return ["No spots were held out: nothing is certified, and training geometry is largely memorised."]
    names = {"certificate_random_pairs": "random pairs", "certificate": "pairs matched by range"}
    return [_sentence(found[key], name) for key, name in names.items()]


def _sentence(one: dict[str, Any], name: str) -> str:
    point = one["point"]
    if point is None:
        return f"Nothing is certified for {name}: {one['n_pairs']} disjoint ones are too few"
    return (
        f"Certified for {name} ({one['n_pairs']} disjoint ones) with {1 - one['delta']:.0%} confidence: "
        f"L({point['epsilon']:.2g}) <= {_number(point['L'])}"
    )


def _at(curve: list[dict[str, float]], epsilon: float) -> float:
    return next(point["L"] for point in curve if point["epsilon"] == epsilon)


def _number(value: float | None) -> str:
    return "inf" if value is None or not np.isfinite(value) else f"{value:.3g}"


def pictures(folder: Path) -> list[str]:
    """Paths of the pictures that a diagnosis draws."""
    names = ("distortion_profile", "certificate", "distortion_map", "tissot_*", "autocorrelation")
    return [str(path) for name in names for path in sorted((Path(folder) / "figures").glob(f"{name}.png"))]
