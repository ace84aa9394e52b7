"""From a finished run to the record of its report."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from isovi import tl
from isovi.data import check
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.tissot import TissotEllipses
from isovi.report import curves
from isovi.report.record import Figure, Report, Summary, plain_number
from isovi.report.spots import views
from isovi.report.verdict import target_of, verdict
from isovi.tl.tissot import summary as ellipse_summary
from isovi.workflow import compare
from isovi.workflow.finished import LATENT_KEY, Run, read

_HIGHER_IS_BETTER = {"spearman_distance", "morans_i"}
_SAME = ("holdout", "seed", "section_key")  # arguments on which the split depends, besides the file
_MODELS = {"scvi": "IsoSCVI (counts)", "vae": "IsoVAE (Gaussian on log-normalised counts)"}
_PROGRAMS = ("isovi", "isovi.exe", "__main__.py")


def summarise(folder: Path, beside: Path | None = None) -> Report:
    """Gather what a report says and shows.

    Parameters
    ----------
    folder
        Written by ``isovi fit``; nothing in it is changed.
    beside
        Folder of the plain backbone on the same split of the same file, to hold the run beside.

    Raises
    ------
    InputError
        If a folder holds no finished run, or the two runs held out different spots.
    """
    run, metrics, record = read(folder), compare.read(folder), record_of(folder)
    plain = None if beside is None else _plain(record, Path(beside))
    spots = check.spots(run.adata, **run.keys)
    found = _measure(run)
    shown, explained = views(run, spots, record["arguments"].get("label_key"))
    target = target_of(metrics["distortion"])
    summary = Summary(
        title=Path(record["arguments"]["input"]).stem,
        facts=facts(run, metrics, record),
        verdict=verdict(metrics, np.asarray(run.adata.obsm[LATENT_KEY]), target, plain),
        figures=figures(metrics, plain),
        plain=None if beside is None else str(beside),
        target=target,
        history=curves.history(run.folder),
        profile=curves.profile(run),
        anisotropy=_anisotropy(found),
        command=command(record["command"]),
        n_shown=len(shown.names),
        n_obs=run.adata.n_obs,
        explained=explained,
    )
    shepard = curves.shepard(run, spots, metrics["distance_scale"])
    return Report(summary, shown, shepard, curves.ellipses(run, spots, found))


def record_of(folder: Path) -> dict[str, Any]:
    """``run.json`` of a run."""
    file = Path(folder) / "run.json"
    if not file.is_file():
        raise InputError(
            f"{folder} holds no run.json.",
            "It must be a folder written by isovi fit.",
            "Name such a folder.",
        )
    return json.loads(file.read_text())


def _measure(run: Run) -> TissotEllipses:
    """Distortion map and ellipses of all spots; their columns go to the data in memory, not to the file."""
    asked = {"use_rep": LATENT_KEY, **run.keys}
    tl.distortion_map(run.adata, seed=run.seed, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots without an ellipse: they are grey
        return tl.tissot(run.adata, **asked)


def _plain(record: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Figures of the other run, which must have held out the same spots."""
    other = record_of(beside)
    differing = [name for name in _SAME if record["arguments"][name] != other["arguments"][name]]
    if record["input_sha256"] != other["input_sha256"] or differing:
        what = ", ".join(differing) or "input file"
        raise InputError(
            f"{beside} differs from the run in: {what}.",
            "Figures are comparable where the same spots of the same file were held out.",
            "Fit the plain backbone with the same options and --plain.",
        )
    return compare.read(beside)


def figures(metrics: dict[str, Any], plain: dict[str, Any] | None) -> list[Figure]:
    """Rows of the table of figures; where nothing was held out, those of all spots stand under training."""
    heldout, train = metrics.get("heldout", {}), metrics["train"]
    beside = (plain or {}).get("heldout", {})
    return [
        Figure(
            key,
            name,
            "higher" if key in _HIGHER_IS_BETTER else "lower",
            *(plain_number(part.get(key)) for part in (heldout, train, beside)),
        )
        for key, name in compare.FIGURES.items()
        if key in heldout or key in train
    ]


def facts(run: Run, metrics: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    """What was run, by name."""
    arguments, versions = record["arguments"], record["versions"]
    parts = {"training": "n_train", "validation": "n_validation", "held out": "n_heldout"}
    split = ", ".join(f"{metrics[key]:,} {name}" for name, key in parts.items())
    minutes, seconds = divmod(round(record["seconds"]), 60)
    memory = record["peak_memory_mb"]
    told = {
        "Input": str(arguments["input"]),
        "Spots": f"{metrics['n_obs']:,} ({split})",
        "Sections": None if run.keys["section_key"] is None else f"by {run.keys['section_key']}",
        "Genes": f"{metrics['n_genes']:,}",
        "Model": f"{_MODELS[metrics['backbone']]}, {run.adata.obsm[LATENT_KEY].shape[1]} latent dimensions",
        "Asked of distances": metrics["distortion"],
        "Pairs": arguments["pairs"],
        "Training": record["summary"],
        "Scale λ": _scale(metrics["distance_scale"]),
        "Domains": str(metrics["n_domains"]),
        "Seed": str(record["seed"]),
        "Time": f"{minutes} min {seconds} s" if minutes else f"{record['seconds']:.0f} s",
        "Peak memory": None if memory is None else f"{memory / 1024:.1f} GB",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "Platform": record["platform"],
        "SHA-256 of the input": record["input_sha256"],
    }
    return {name: value for name, value in told.items() if value}


def _scale(scale: float | dict[str, float]) -> str:
    unit = "latent length per spacing of spots"
    if isinstance(scale, dict):
        return ", ".join(f"{name}: {value:.3g}" for name, value in scale.items()) + f" ({unit})"
    return f"{scale:.3g} {unit}"


def _anisotropy(found: TissotEllipses) -> dict[str, float | None]:
    told = ellipse_summary(found)
    if not told["n_ellipses"]:
        return {}
    pairs = zip(told["quantiles"], told["anisotropy"], strict=True)
    return {f"{share:g}": plain_number(value) for share, value in pairs}


def command(typed: str) -> str:
    """The command that was typed, without the folder in which isovi happens to be installed."""
    words = shlex.split(typed)
    if words and Path(words[0]).name in _PROGRAMS:
        words[0] = "isovi"
    return shlex.join(words)
