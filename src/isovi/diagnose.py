"""Geometry of a run: profile, certificate, ellipses and map, held-out spots first."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from isovi import pl, tl
from isovi.data import io
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.profile import DistortionProfile, ProfilePoint
from isovi.model.checkpoint import read_about
from isovi.pipeline import complete
from isovi.pl._data import shepard_pairs
from isovi.run import CHECKPOINT, LATENT_KEY, Run
from isovi.spots import HELDOUT, TRAIN
from isovi.tl.certificate import Certificate
from isovi.tl.tissot import summary

NAMES = {HELDOUT: "held out", TRAIN: "training, largely memorised"}
FORMATS = ("png", "svg", "pdf")
MOST_SECTIONS = 20  # of a plot, each with its own panels, which take long
MATCHED = "matched by range"
_PAIRS = {"certificate": MATCHED, "certificate_random_pairs": "random pairs"}  # by the key of a record
PLOTS = ("distortion_profile", "certificate", "distortion_map", "tissot_*", "autocorrelation")


def diagnose(
    run: Run | str | Path,
    *,
    trust: bool = False,
    format: str = "png",  # noqa: A002  # as of savefig
) -> dict[str, Any]:
    """Measure the geometry of a run; of one on disk, write ``diagnosis.json`` and plots into its folder.

    Parameters
    ----------
    run
        A run, or its folder. Domains, metrics and plots that the fit did not make are made first; other files
        are not changed.
    trust
        As for :meth:`isovi.Run.read`, of a folder.
    format
        Format of the plots: ``"png"``, at 300 dpi, ``"svg"`` or ``"pdf"``.

    Returns
    -------
    What ``diagnosis.json`` holds: ``profile`` with ``heldout``, ``train`` and ``posterior`` (held-out again,
    over samples of the posterior), each a list of ``epsilon``, ``L``, ``scale``, and ``bins``, the held-out
    profile by range of tissue distance; ``certificate`` (pairs matched by range) and
    ``certificate_random_pairs``, with ``n_pairs``, ``delta``, ``eta``, ``basis``, ``curve`` and ``point``
    (with ``method`` and the limit by a bootstrap, ``approximate_L``); ``anisotropy`` and ``area``, quantiles
    by part; ``distortion_map``; ``autocorrelation``.

    Raises
    ------
    InputError
        If the folder holds no run, its metrics cannot be computed (of packed data they need its store), or
        the format is not known.
    OutputError
        If the folder cannot be written, or another process writes it.

    Warns
    -----
    IsoviWarning
        If a plot cannot be drawn, or nothing is certified because too few spots were held out.
    """
    if format not in FORMATS:
        rule = f"Plots are written as {', '.join(FORMATS)}."
        raise InputError(f'format="{format}" was given.', rule, "Name one of them.")
    run = run if isinstance(run, Run) else Run.read(run, trust=trust)
    if run.folder is None:
        _complete(run)
        return _measured(run)[0]
    with io.exclusive(run.folder):
        _complete(run)
        found, plots = _measured(run)
        io.write_json(run.folder / "diagnosis.json", found)
        folder = run.folder / "figures"
        _draw(run, folder, _missing(run, folder, format) | plots, format)
    return found


def _complete(run: Run) -> None:
    """Make the domains and metrics that the fit did not, and write them."""
    if run.is_complete:
        return
    complete(run, run.model_data() if run.adata.X is None else None)  # of packed data read from its store
    if run.folder is not None:
        if run.is_complete:
            _remove_checkpoint(run)
        run.rewrite()
    run.require_complete()


def _remove_checkpoint(run: Run) -> None:
    """Remove the checkpoint of the training that made the run: a complete run needs it no more."""
    file = io.beside(io.output_path(run.folder or ""), CHECKPOINT)
    with suppress(InputError):  # a file that is no checkpoint
        about = read_about(file) if file.exists() else {}
        same = {name: json.dumps(value) for name, value in run.settings.as_data().items()}
        if (same | {"input_sha256": run.provenance.sha256}).items() <= about.items():
            file.unlink()


def _measured(run: Run) -> tuple[dict[str, Any], dict[str, Callable]]:
    """What is measured, and plots of it by the name of their file."""
    profiles = _profiles(run)
    certificates = _certificates(run)
    found = {
        "profile": _profile_record(profiles),
        **{name: _certificate_record(one) for name, one in certificates.items()},
        **_ellipses(run),
        "distortion_map": _map(run),
        "autocorrelation": _autocorrelation(run),
    }
    return found, _of_diagnosis(run, profiles, certificates)


# ---------------------------------------------------------------------------- measuring


def _profiles(run: Run) -> dict[str, DistortionProfile]:
    """Profiles by part, held-out first; also over samples of the posterior of the first part."""
    parts = run.parts()
    found = {
        part: tl.distortion_profile(run.adata, cells=cells, seed=run.settings.seed, **run.settings.keys)
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
    """What is certified, by name; nothing where too few spots were held out."""
    found = {}
    for name, pairs in _PAIRS.items() if HELDOUT in run.parts() else ():
        try:
            found[name] = run.certificate(matched=pairs == MATCHED)
        except InputError as error:
            said = f"Nothing is certified ({pairs}); the rest is measured without. {error}"
            warnings.warn(said, IsoviWarning, stacklevel=2)
    return found


def _ellipses(run: Run) -> dict[str, Any]:
    """Quantiles of anisotropy and area of each part among its own spots; the map of all spots stays."""
    found_by: dict[str, Any] = {"anisotropy": {}, "area": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots without an ellipse: their number is given
        for part, cells in {**run.parts(), "all": None}.items():
            found = summary(tl.tissot(run.adata, cells=cells, **run.settings.keys))
            for name, quantiles in found_by.items():
                shares = [f"{share:g}" for share in found["quantiles"]]
                quantiles[part] = dict(zip(shares, found[name], strict=True))
    return found_by


def _map(run: Run) -> dict[str, Any]:
    """Quantiles over the spots of each part; the map is made over all spots."""
    found = tl.distortion_map(run.adata, seed=run.settings.seed, **run.settings.keys)
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
    curves = {part: _points(profiles[part].curve()) if part in profiles else None for part in NAMES}
    sampled = _points(profiles["posterior"].curve()) if "posterior" in profiles else None
    return {**curves, "posterior": sampled, "bins": bins, "unit": "spacing"}


def _certificate_record(found: Certificate) -> dict[str, Any]:
    point = None
    if found.point is not None:
        more = {name: getattr(found.point, name) for name in ("method", "approximate_L", "approximate_scale")}
        point = asdict(found.for_epsilon(found.point.epsilon)) | more
    return {
        "n_pairs": found.n_pairs,
        "delta": found.delta,
        "eta": found.eta,
        "basis": found.basis,
        "curve": _points(found.curve.curve()),
        "point": point,
        "measured": _points(found.curve.profile.curve()),
    }


# ---------------------------------------------------------------------------- plots


def draw(run: Run, folder: Path) -> None:
    """Write plots of domains, latent dimensions, training and distances into a folder that lacks them.

    Warns
    -----
    IsoviWarning
        If one of them cannot be drawn; the others are.
    """
    _draw(run, folder, _missing(run, folder))


def _missing(run: Run, folder: Path, kind: str = "png") -> dict[str, Callable]:
    return {name: plot for name, plot in _of_fit(run).items() if not (folder / f"{name}.{kind}").exists()}


def _draw(run: Run, folder: Path, plots: Mapping[str, Callable], kind: str = "png") -> None:
    for name, plot in plots.items():
        file = folder / f"{name}.{kind}"
        with as_warning(f"{file} was not drawn", run):
            folder.mkdir(exist_ok=True)
            plot(save=file)


@contextmanager
def as_warning(what: str, run: Run) -> Iterator[None]:
    """Warn if the block fails, with the reason and how to try again: the trained run is kept."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # whatever it is, hours of training end well
        said = f"{what} ({type(error).__name__}: {error}). The run is kept: try {run.retry}"
        warnings.warn(said, IsoviWarning, stacklevel=3)


def _drawn(run: Run) -> AnnData:
    """The data; of more than ``MOST_SECTIONS`` sections, those with most spots."""
    if (key := run.settings.section_key) is None:
        return run.adata
    shown = run.adata.obs[key].value_counts().index[:MOST_SECTIONS]
    return run.adata[run.adata.obs[key].isin(shown)]


def _of_fit(run: Run) -> dict[str, Callable]:
    """Plots of every fit, by the name of their file."""
    keys, target, adata = run.settings.keys, run.settings.target, _drawn(run)

    def shepard(save: Path) -> None:
        scale = run.metrics["distance_scale"]
        pl.shepard(*shepard_pairs(run.latent("place"), run.spots, scale), save=save)

    return {
        "domains": partial(pl.domains, adata, **keys),
        "latent": partial(pl.latent, adata, **keys),
        "history": partial(pl.history, run.history, target=target),
        "shepard": shepard,
    }


def _of_diagnosis(
    run: Run, profiles: dict[str, DistortionProfile], certificates: dict[str, Certificate]
) -> dict[str, Callable]:
    """Plots of a diagnosis, by the name of their file."""
    named = {name: profiles[part] for part, name in NAMES.items() if part in profiles}
    adata = _drawn(run)
    matched = {_PAIRS[name]: one for name, one in certificates.items()}
    return {
        "distortion_profile": partial(pl.distortion_profile, named),
        **({"certificate": partial(pl.certificate, matched)} if matched else {}),
        "distortion_map": partial(pl.distortion_map, adata, **run.settings.keys),
        **{f"tissot_{basis}": partial(pl.tissot, adata, basis=basis) for basis in ("spatial", "latent")},
        "autocorrelation": partial(pl.spatial_autocorrelation, run.adata),
    }
