"""From a finished run to the record of its report."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from isovi import tl
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.tissot import TissotEllipses
from isovi.report import curves
from isovi.report.record import Figure, Report, Summary, plain_number
from isovi.report.spots import views
from isovi.report.verdict import verdict
from isovi.run import LATENT_KEY, Run
from isovi.tl.tissot import summary as ellipse_summary

_SAME = ("holdout", "seed", "section_key")  # arguments on which the split depends, besides the file
_MODELS = {"scvi": "IsoSCVI (counts)", "vae": "IsoVAE (Gaussian on log-normalised counts)"}


def summarise(run: Run, beside: Run | None = None) -> Report:
    """Gather what a report says and shows.

    Parameters
    ----------
    run
        A run; nothing in its folder is changed.
    beside
        The plain backbone on the same split of the same file, to compare the run with.

    Raises
    ------
    InputError
        If the two runs held out different spots.
    """
    if beside is not None:
        _require_same(run, beside)
    metrics, plain = run.metrics, None if beside is None else beside.metrics
    found = _measure(run)
    shown, explained = views(run, run.spots, run.settings.label_key)
    summary = Summary(
        title=_title(run),
        facts=facts(run),
        verdict=verdict(run, plain),
        figures=figures(metrics, plain),
        plain=None if beside is None else str(beside.folder or beside.id),
        target=run.settings.target,
        history=curves.history(run),
        profile=curves.profile(run),
        anisotropy=_anisotropy(found),
        command=run.provenance.call,
        n_shown=len(shown.names),
        n_obs=run.adata.n_obs,
        explained=explained,
    )
    return Report(summary, shown, curves.shepard(run), curves.ellipses(run, run.spots, found))


def _title(run: Run) -> str:
    path = run.provenance.source.get("path")
    return Path(path).stem if path else "run"


def _measure(run: Run) -> TissotEllipses:
    """Distortion map and ellipses of all spots; their columns go to the data in memory, not to the file."""
    asked: dict[str, Any] = {"use_rep": LATENT_KEY, **run.settings.keys}
    tl.distortion_map(run.adata, seed=run.settings.seed, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots without an ellipse: they are grey
        return tl.tissot(run.adata, **asked)


def _require_same(run: Run, beside: Run) -> None:
    """Refuse a run whose metrics are of other spots."""
    ours, theirs = run.settings, beside.settings
    differing = [name for name in _SAME if getattr(ours, name) != getattr(theirs, name)]
    if run.provenance.sha256 != beside.provenance.sha256 or differing:
        what = ", ".join(differing) or "input file"
        raise InputError(
            f"{beside.folder or beside.id} differs from the run in: {what}.",
            "Metrics are comparable where the same spots of the same file were held out.",
            "Fit the plain backbone with the same settings and distortion=Penalty(0).",
        )


def figures(metrics: dict[str, Any], plain: dict[str, Any] | None) -> list[Figure]:
    """Rows of the table of figures; where nothing was held out, those of all spots stand under training."""
    heldout, train = metrics.get("heldout", {}), metrics["train"]
    beside = (plain or {}).get("heldout", {})
    return [
        Figure(
            name, metric.title, metric.better, *(plain_number(p.get(name)) for p in (heldout, train, beside))
        )
        for name, metric in tl.METRICS.items()
        if name in heldout or name in train
    ]


def facts(run: Run) -> dict[str, str]:
    """What was run, by name."""
    settings, metrics, provenance = run.settings, run.metrics, run.provenance
    parts = {"training": "n_train", "validation": "n_validation", "held out": "n_heldout"}
    split = ", ".join(f"{metrics[key]:,} {name}" for name, key in parts.items())
    minutes, seconds = divmod(round(provenance.seconds), 60)
    memory = provenance.peak_memory_mb
    shown = {
        "Input": str(provenance.source.get("path", "AnnData in memory")),
        "Spots": f"{metrics['n_obs']:,} ({split})",
        "Sections": None if settings.section_key is None else f"by {settings.section_key}",
        "Genes": f"{metrics['n_genes']:,}",
        "Model": f"{_MODELS[settings.backbone]}, {run.adata.obsm[LATENT_KEY].shape[1]} latent dimensions",
        "Distortion": str(settings.distortion),
        "Pairs": str(settings.pairs),
        "Training": run.training["summary"],
        "Scale λ": _scale(metrics["distance_scale"]),
        "Domains": str(metrics["n_domains"]),
        "Random seed": str(settings.seed),
        "Time": f"{minutes} min {seconds} s" if minutes else f"{provenance.seconds:.0f} s",
        "Peak memory": None if memory is None else f"{memory / 1024:.1f} GB",
        "Versions": ", ".join(f"{name} {number}" for name, number in provenance.versions.items()),
        "Platform": provenance.platform,
        "SHA-256 of the input": provenance.sha256,
    }
    return {name: value for name, value in shown.items() if value}


def _scale(scale: float | dict[str, float] | None) -> str | None:
    if scale is None:
        return None
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
