"""From the record of a report to one page that needs no network."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined

from isovi import __version__
from isovi.pl._data import Density
from isovi.report import plots
from isovi.report.record import Channel, Dots, Genes
from isovi.report.summarise import Report, Summary

PAGE_BYTES = 8_000_000
"""Largest page: a mail takes it."""

STORE_VALUES = 10_000_000
"""Largest number of values of the store of genes, such as 2,000 genes of 5,000 spots."""

_STOPS = 9  # colours that draw a ramp in the page
_LEVELS = 63  # of a gene's values in the store
_LEAST_SPOTS = 100  # of the store
_BLOCK = 100  # genes that are dense at a time
_RADIUS = 9  # pixels, of a dot of a gene that is counted in all spots


def html(report: Report) -> str:
    """The page, with all that it needs inside.

    Parameters
    ----------
    report
        What it says and shows.

    Returns
    -------
    HTML in which names from the data cannot become markup.
    """
    views, channels = plots.views(report.spots)
    charts = _charts(report)
    documents = {"views": _document(views, channels), "charts": _document(charts)}
    without = page(report.summary, report, charts=charts, documents=documents)
    store = packed(report.genes, PAGE_BYTES - len(without.encode()))
    return page(report.summary, report, charts=charts, documents=documents, store=store)


def packed(genes: Genes | None, budget: int) -> dict[str, Any] | None:
    """Expression of all genes as the page unpacks it, in at most so many bytes.

    Values are rounded to 1 in 63 of a gene's largest, gene by gene and spot by spot, and compressed. Where
    that is too much, fewer spots are taken, evenly spread, and the page says how many.

    Returns
    -------
    ``names``, ``highest`` of each gene, ``rows`` of the spots (``None`` for all) and ``bytes``, text in
    base64; ``None`` if there are no genes, or if not even 100 spots fit.
    """
    if genes is None or not genes.names:
        return None
    n_shown, n_genes = genes.matrix.shape
    n = min(n_shown, max(_LEAST_SPOTS, STORE_VALUES // n_genes))
    highest = np.maximum(genes.matrix.max(axis=0).toarray().ravel(), 1e-6)
    rows = genes.matrix.tocsr()
    while n >= min(_LEAST_SPOTS, n_shown):
        taken = np.linspace(0, n_shown - 1, n).round().astype(np.int64)
        part = rows[taken].tocsc()
        squeezer, pieces = zlib.compressobj(9, wbits=31), []  # as gzip
        for start in range(0, n_genes, _BLOCK):
            block = part[:, start : start + _BLOCK].toarray() / highest[start : start + _BLOCK]
            levels = np.where(block > 0, np.maximum(np.round(_LEVELS * block), 1), 0).astype(np.uint8)
            pieces.append(squeezer.compress(np.ascontiguousarray(levels.T).tobytes()))
        text = base64.b64encode(b"".join([*pieces, squeezer.flush()])).decode()
        overhead = 8 * n + sum(len(name.encode()) + 12 for name in genes.names)
        if len(text) + overhead <= budget:
            kept = None if n == n_shown else taken.tolist()
            tops = [float(f"{one:.4g}") for one in highest]
            return {
                "names": genes.names,
                "highest": tops,
                "levels": _LEVELS,
                "rows": kept,
                "bytes": text,
                "about": f"log1p of counts at a library size of 10,000, in {_LEVELS} steps.",
            }
        n = int(n * min(0.8, max(0.2, budget / (len(text) + overhead))))
    return None


def page(
    summary: Summary,
    report: Report,
    *,
    charts: Mapping[str, Any],
    documents: Mapping[str, Any],
    store: Mapping[str, Any] | None = None,
) -> str:
    """The page of a summary with the drawings of a report.

    Parameters
    ----------
    summary, report
        What is said, and what is shown.
    charts, documents
        Plots besides the views, by name, and drawings as BokehJS reads them: ``"views"`` and ``"charts"``.
    store
        Expression of all genes, see :func:`packed`.
    """
    return _template().render(
        report=summary,
        charts=set(charts),
        channels=[_described(number, channel) for number, channel in enumerate(report.spots.channels)],
        shepard={key: one.name for key, one in _shepard(report).items()},
        ramp=_gradient(plots.ramp("anisotropy")),
        documents=documents,
        store=store,
        spots=report.spots,
        dots=_dots(summary.domains.dots),
        ratio=plots.view_ratio(report.spots),
        version=__version__,
        **_own_files(),
    )


def _charts(report: Report) -> dict[str, figure]:
    ratio = plots.view_ratio(report.spots)
    found = {key: plots.course(key, one) for key, one in report.summary.history.items()}
    if report.summary.profile.curves:
        found["profile"] = plots.profile(report.summary.profile)
    found |= {key: plots.shepard(key, one) for key, one in _shepard(report).items()}
    views = {f"ellipses-{one.name}": one for one in report.ellipses}
    return found | {key: plots.ellipses(key, one, ratio) for key, one in views.items()}


def _shepard(report: Report) -> dict[str, Density]:
    """Shepard plots by the name that they have in the page."""
    return {f"shepard-{one.name.replace(' ', '-')}": one for one in report.shepard}


def _document(drawn: Mapping[str, figure], *others: ColumnDataSource) -> dict[str, Any]:
    """Plots as BokehJS reads them, each with the id of the element that it goes into."""
    document = Document()
    for model in (*drawn.values(), *others):
        document.add_root(model)
    roots = {one.id: f"plot-{name}" for name, one in drawn.items()}
    return {"json": document.to_json(deferred=False), "roots": roots}


def _described(number: int, channel: Channel) -> dict[str, Any]:
    """What the page has to know of a channel besides its values."""
    return {
        "key": f"c{number}",
        "label": channel.label,
        "group": channel.group,
        "categories": channel.categories,
        "low": channel.low,
        "high": channel.high,
        "about": channel.about,
        "scale": channel.scale,
        "palette": channel.colors or channel.scale,
    }


def _dots(found: Dots | None) -> list[list[dict[str, Any]]]:
    """Radius, colour and words of each dot, by domain and gene."""
    if found is None:
        return []
    colors = plots.ramp("sequential")
    return [
        [
            {
                "radius": round(_RADIUS * share**0.5, 2),
                "color": colors[round((len(colors) - 1) * mean)],
                "words": f"{gene} in domain {domain}: counted in {share:.0%} of the spots",
            }
            for gene, mean, share in zip(found.genes, means, shares, strict=True)
        ]
        for domain, means, shares in zip(found.domains, found.mean, found.share, strict=True)
    ]


def _gradient(colors: list[str]) -> str:
    return ", ".join(colors[round(i * (len(colors) - 1) / (_STOPS - 1))] for i in range(_STOPS))


@cache
def _own_files() -> dict[str, Any]:
    """Scripts and styles that the page carries, and the colours of continuous scales."""
    folder = files("isovi.report")
    # no WebGL: a canvas draws 20,000 spots in 70 ms; WebGL takes four times that without a graphics card
    bokeh = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
    return {
        "bokeh": bokeh,
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": (folder / "page.js").read_text(encoding="utf-8"),
        "ramps": {scale: plots.ramp(scale) for scale in ("sequential", "diverging", "anisotropy")},
    }


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("isovi.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh defines before it refers
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4g}"
    return environment.get_template("page.html")
