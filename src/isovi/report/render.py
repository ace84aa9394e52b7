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
from isovi.pl._data import Density
from isovi.report import plots
from isovi.report.record import Channel
from isovi.report.summarise import Report

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
    views, channels = plots.views(report.spots)
    charts = _charts(report)
    return _template().render(
        report=report.summary,
        charts=set(charts),
        channels=[_described(number, channel) for number, channel in enumerate(report.spots.channels)],
        shepard={key: one.name for key, one in _shepard(report).items()},
        ramp=_gradient(plots.ramp("anisotropy")),
        views_document=_document(views, channels),
        charts_document=_document(charts),
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
    colors = plots.palette(channel)
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
