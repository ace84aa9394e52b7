"""From the record of a report to one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from bokeh.document import Document
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined

from isovi import __version__
from isovi.report import figures
from isovi.report.record import Channel, Report

_STOPS = 9  # colours that draw a ramp in the page


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
    views, channels = figures.views(report.spots)
    charts = _charts(report)
    return _template().render(
        report=report.summary,
        charts=set(charts),
        channels=[_told(number, channel) for number, channel in enumerate(report.spots.channels)],
        shepard=report.shepard,
        ramp=_gradient(figures.ramp("anisotropy")),
        views_document=_document(views, channels),
        charts_document=_document(charts),
        ratio=figures.view_ratio(report.spots),
        version=__version__,
        **_own_files(),
    )


def _charts(report: Report) -> dict[str, figure]:
    ratio = figures.view_ratio(report.spots)
    found = figures.histories(report.summary)
    if report.summary.profile.curves:
        found["profile"] = figures.profile(report.summary.profile)
    found |= {density.key: figures.shepard(density) for density in report.shepard}
    return found | {one.key: figures.ellipses(one, ratio) for one in report.ellipses}


def _document(drawn: Mapping[str, figure], *others: ColumnDataSource) -> dict[str, Any]:
    """Figures as BokehJS reads them, each with the id of the element that it goes into."""
    document = Document()
    for model in (*drawn.values(), *others):
        document.add_root(model)
    roots = {one.id: f"plot-{name}" for name, one in drawn.items()}
    return {"json": document.to_json(deferred=False), "roots": roots}


def _told(number: int, channel: Channel) -> dict[str, Any]:
    """What the page has to know of a channel besides its values."""
    colors = figures.palette(channel)
    return {
        "key": f"c{number}",
        "label": channel.label,
        "group": channel.group,
        "categories": channel.categories,
        "low": channel.low,
        "high": channel.high,
        "about": channel.about,
        "scale": channel.scale,
        "palette": colors if channel.categories else channel.scale,
    }


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
        "ramps": {scale: figures.ramp(scale) for scale in ("sequential", "diverging", "anisotropy")},
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
