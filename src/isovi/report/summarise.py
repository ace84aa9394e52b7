"""What a report says and shows: one record for the console, ``report.json`` and ``report.html``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isovi import tl
from isovi.compare import require_same
from isovi.errors import IsoviWarning
from isovi.geometry.tissot import TissotEllipses
from isovi.pl._data import Course, Density, courses
from isovi.report import geometry
from isovi.report.domains import domains
from isovi.report.record import Domains, Ellipses, Genes, MetricRow, Profile, Views
from isovi.report.views import expression_of, shown_rows, views
from isovi.run import BACKBONES, LATENT_KEY, Run
from isovi.tl.tissot import summary as ellipse_summary
from isovi.verdict import Statement, beside, in_epochs, plain_number, verdict


@dataclass(frozen=True)
class Summary:
    """All of a report but its plots: what ``report.json`` holds.

    Attributes
    ----------
    title
        Name of the run.
    facts
        What was run, by name.
    verdict
        The news, most important first.
    metrics
        Rows of the table of metrics.
    plain
        Folder of the plain backbone that the run is compared with, if any.
    target
        Tolerated relative distortion, where there was a constraint.
    history
        Courses of training, ``"elbo"``, ``"distortion"`` and ``"multiplier"``, as far as they were kept.
    profile
        The distortion profile.
    anisotropy
        Quantiles of the ellipses' anisotropy by share; empty if there are no ellipses.
    call
        How the fit was called, to repeat it; empty if that is not known.
    n_shown, n_obs
        Spots of the interactive views, and of the run.
    explained
        R²: share of the positions' variance that the two shown latent components explain.
    domains
        Markers, composition, agreement with labels, and how their number was chosen.
    """

    title: str
    facts: dict[str, str]
    verdict: list[Statement]
    metrics: list[MetricRow]
    plain: str | None
    target: float | None
    history: dict[str, Course]
    profile: Profile
    anisotropy: dict[str, float | None]
    call: str
    n_shown: int
    n_obs: int
    explained: float
    domains: Domains


@dataclass(frozen=True, repr=False)
class Report:
    """A report: what it says, and what it shows.

    Attributes
    ----------
    summary
        All that is said.
    spots
        The interactive views.
    shepard
        Shepard plots, of held-out spots first.
    ellipses
        In tissue and in the latent representation; empty if no spot has one.
    genes
        Expression of all genes, for the search; ``None`` of runs without counts.
    """

    summary: Summary
    spots: Views
    shepard: tuple[Density, ...]
    ellipses: tuple[Ellipses, ...]
    genes: Genes | None = None

    def words(self) -> list[str]:
        """The verdict, a line for each statement."""
        return [f"{said.title}: {said.text}" for said in self.summary.verdict]

    def __repr__(self) -> str:
        return "\n".join([f"Report of {self.summary.title}", *(f"  {line}" for line in self.words())])


def summarise(run: Run, plain_run: Run | None = None) -> Report:
    """Gather what a report says and shows.

    Parameters
    ----------
    run
        A run; nothing in its folder is changed.
    plain_run
        The plain backbone on the same split of the same file, to compare the run with.

    Raises
    ------
    InputError
        If the two runs held out different spots.
    """
    if plain_run is not None:
        require_same([run, plain_run])
    plain = None if plain_run is None else plain_run.metrics
    judged = verdict(run).statements()
    found = _measure(run)
    rows = shown_rows(run)
    expression = expression_of(run, rows)
    shown, explained = views(run, rows, expression)
    summary = Summary(
        title=_title(run),
        facts=facts(run),
        verdict=judged if plain is None else [*judged, beside(run.metrics, plain)],
        metrics=metric_rows(run.metrics, plain),
        plain=None if plain_run is None else str(plain_run.folder or plain_run.id),
        target=run.settings.target,
        history=courses(run.history, run.settings.target),
        profile=geometry.profile(run),
        anisotropy=_anisotropy(found),
        call=run.provenance.call,
        n_shown=len(shown.names),
        n_obs=run.adata.n_obs,
        explained=explained,
        domains=domains(run, rows, expression),
    )
    genes = None if expression is None else Genes(expression[1], expression[0])
    return Report(summary, shown, geometry.shepard(run), geometry.ellipses(run, found), genes)


def _title(run: Run) -> str:
    path = run.provenance.source.get("path")
    return Path(path).stem if path else "run"


def _measure(run: Run) -> TissotEllipses:
    """Distortion map and ellipses of all spots; their columns go to the data in memory, not to the file."""
    asked: dict[str, Any] = run.settings.keys
    tl.distortion_map(run.adata, seed=run.settings.seed, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots without an ellipse: they are grey
        return tl.tissot(run.adata, **asked)


def metric_rows(metrics: dict[str, Any], plain: dict[str, Any] | None) -> list[MetricRow]:
    """Rows of the table of metrics; where nothing was held out there are only those of training spots."""
    parts = metrics.get("heldout", {}), metrics["train"], (plain or {}).get("heldout", {})
    return [
        MetricRow(name, metric.title, metric.better, *(plain_number(part.get(name)) for part in parts))
        for name, metric in tl.METRICS.items()
        if any(name in part for part in parts[:2])
    ]


def facts(run: Run) -> dict[str, str]:
    """What was run, by name."""
    settings, metrics, provenance = run.settings, run.metrics, run.provenance
    parts = {"training": "n_train", "validation": "n_validation", "held out": "n_heldout"}
    split = ", ".join(f"{metrics[key]:,} {name}" for name, key in parts.items())
    minutes, seconds = divmod(round(provenance.seconds), 60)
    memory, model = provenance.peak_memory_mb, BACKBONES[settings.backbone]
    shown = {
        "Input": str(provenance.source.get("path", "AnnData in memory")),
        "Spots": f"{metrics['n_obs']:,} ({split})",
        "Sections": None if settings.section_key is None else f"by {settings.section_key}",
        "Genes": f"{metrics['n_genes']:,}",
        "Model": f"{model.__name__}, {run.adata.obsm[LATENT_KEY].shape[1]} latent dimensions",
        "Distortion": str(settings.distortion or "none, the plain backbone"),
        "Pairs": str(settings.pairs),
        "Training": in_epochs(run.training),
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


def _scale(scale: float | dict[str, float | None] | None) -> str | None:
    """λ in words; that of a section that was not trained on is missing."""
    if scale is None:
        return None
    unit = "latent length per spacing of spots"
    if not isinstance(scale, dict):
        return f"{scale:.3g} {unit}"
    known = {name: plain_number(value) for name, value in scale.items()}
    words = {name: "not trained on" if value is None else f"{value:.3g}" for name, value in known.items()}
    return f"{', '.join(f'{name}: {value}' for name, value in words.items())} ({unit})"


def _anisotropy(found: TissotEllipses) -> dict[str, float | None]:
    quantiles = ellipse_summary(found)
    if not quantiles["n_ellipses"]:
        return {}
    pairs = zip(quantiles["quantiles"], quantiles["anisotropy"], strict=True)
    return {f"{share:g}": plain_number(value) for share, value in pairs}
