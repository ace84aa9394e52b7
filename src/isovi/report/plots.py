"""Plots of a report, in Bokeh; text and lines take their colours from the page, light or dark."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np
from bokeh.core.properties import value as constant
from bokeh.models import (
    BooleanFilter,
    BoxSelectTool,
    CDSView,
    ColumnDataSource,
    HoverTool,
    LassoSelectTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    Scatter,
    TapTool,
    WheelZoomTool,
)
from bokeh.models.renderers import GlyphRenderer
from bokeh.plotting import figure
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from isovi.pl import _data, _palette
from isovi.pl._data import Course, Curve, Density
from isovi.report.record import Channel, Ellipses, Profile, Views

ACCENT, SECOND = _palette.TRAINING, _palette.HELDOUT
GREY = "#888888"
FONT = "system-ui, sans-serif"
_PADDING = 1.06  # of a view around its spots
_RATIOS = 0.8, 1.7  # width by height of a view
_SHADES = 256
_LINE = 0.045  # height of a line of text, as a share of the tissue view's
_LETTERS = 28  # of a section's name above its spots


# ---------------------------------------------------------------------------- colours


def palette(channel: Channel) -> list[str]:
    """Colours of a channel: of its categories, or along its range."""
    return list(channel.colors) or ramp(channel.scale)


@cache
def ramp(scale: str) -> list[str]:
    """256 colours in equal steps of the value; those of the anisotropy follow its logarithm, as in pl."""
    places = np.linspace(0, 1, _SHADES)
    if scale == "anisotropy":
        low, high = _data.ANISOTROPY
        places = np.log((low + (high - low) * places) / low) / np.log(high / low)
    return [to_hex(color) for color in _palette.ramp(scale, places)]


# ---------------------------------------------------------------------------- spots


def views(spots: Views) -> tuple[dict[str, figure], ColumnDataSource]:
    """Tissue and latent view of one source, and the source with the values of all channels.

    Whatever is hovered over or chosen in one view is so in the other, since it is the same row of the same
    source.
    """
    first = spots.channels[0]
    source = ColumnDataSource(
        {
            "x": spots.tissue[:, 0], "y": spots.tissue[:, 1],
            "u": spots.latent[:, 0], "v": spots.latent[:, 1],
            "value": first.values.astype(np.float32),
        },
        name="spots",
    )  # fmt: skip
    mapper = LinearColorMapper(
        palette=palette(first), low=first.low, high=first.high, nan_color=_palette.MISSING, name="colors"
    )
    ratio = _ratio(_outline(spots), spots.diameter)
    part = CDSView(filter=BooleanFilter(booleans=None, name="section"))  # of one section, or of all
    looks = {"source": source, "mapper": mapper, "ratio": ratio, "part": part}
    drawn = {"tissue": _view("tissue", ("x", "y"), _outline(spots), diameter=spots.diameter, **looks)}
    drawn["latent"] = _view("latent", ("u", "v"), spots.latent, **looks)
    for name, places in spots.parts:
        source.add(places[:, 0], f"{name}-u")
        source.add(places[:, 1], f"{name}-v")
        drawn[name] = _view(name, (f"{name}-u", f"{name}-v"), places, **looks)
    _decorate(drawn["tissue"], spots)
    held = {f"c{number}": channel.values for number, channel in enumerate(spots.channels)}
    if spots.section is not None:
        held["section"] = spots.section.astype(np.uint16)
    return drawn, ColumnDataSource(held | {"name": spots.names}, name="channels")


def _outline(spots: Views) -> NDArray:
    """Places that the tissue view must show: spots, titles above them and scale bars below."""
    if not (spots.sections or spots.bars):
        return spots.tissue
    height = np.ptp(spots.tissue[:, 1]) or 1.0
    titles = [(x, y - _LINE * height) for _, x, y in spots.sections]
    bars = [(bar.x, bar.y + 1.5 * _LINE * height) for bar in spots.bars]
    return np.concatenate([spots.tissue, np.array(titles + bars, dtype=np.float32)])


def _decorate(drawn: figure, spots: Views) -> None:
    """Titles of sections, their pictures below the spots, and scale bars."""
    if spots.images:
        shown = [base64.b64encode(one.jpeg).decode() for one in spots.images]
        pictures = drawn.image_url(
            url=[f"data:image/jpeg;base64,{one}" for one in shown],
            x=[one.x for one in spots.images],
            y=[one.y for one in spots.images],
            w=[one.width for one in spots.images],
            h=[one.height for one in spots.images],
            anchor="top_left",
            level="image",
        )
        pictures.name = "pictures"
    if spots.sections:
        names, x, y = zip(*spots.sections, strict=True)
        shown = [name if len(name) <= _LETTERS else f"{name[:_LETTERS]}…" for name in names]
        drawn.text(x=list(x), y=list(y), text=shown, **_WRITING)
    if spots.bars:
        x0, y, length, words = zip(*((b.x, b.y, b.length, b.words) for b in spots.bars), strict=True)
        ends = np.array(x0) + np.array(length)
        drawn.segment(x0=list(x0), y0=list(y), x1=ends.tolist(), y1=list(y), line_color=GREY, line_width=3)
        below = {**_WRITING, "text_baseline": "top", "text_align": "left"}
        drawn.text(x=list(x0), y=list(y), text=list(words), y_offset=4, **below)


_OPAQUE: dict[str, Any] = {"fill_alpha": 1.0, "nonselection_fill_alpha": 0.12}
_WRITING: dict[str, Any] = {
    "text_align": "center",
    "text_baseline": "bottom",
    "text_font": constant(FONT),
    "text_font_size": "12px",
    "text_color": GREY,
}


def _view(
    name: str,
    fields: tuple[str, str],
    places: NDArray,
    *,
    source: ColumnDataSource,
    mapper: LinearColorMapper,
    ratio: float,
    part: CDSView,
    diameter: float | None = None,
) -> figure:
    """One view; spots of a given diameter grow with the view, others do not."""
    n = len(source.data["x"])
    drawn = _isotropic(name, places, ratio, margin=diameter or 0.0)
    shades: Any = {"field": "value", "transform": mapper}
    size: dict[str, Any] = {"size": float(np.clip(420 / np.sqrt(n), 2.5, 9))}
    if diameter is not None:
        size = {"radius": diameter / 2, "radius_dimension": "min"}
    draw: Any = drawn.scatter if diameter is None else drawn.circle
    spots = draw(*fields, source=source, view=part, fill_color=shades, line_color=None, **_OPAQUE, **size)
    spots.name = f"{name}-spots"
    spots.hover_glyph = Scatter(
        x=fields[0], y=fields[1], size=14, fill_color=shades, line_color=GREY, line_width=3
    )
    _add_tools(drawn, name, spots)
    return drawn


def _add_tools(drawn: figure, name: str, spots: GlyphRenderer) -> None:
    """Tools by the names under which the page's own controls switch them."""
    lasso = LassoSelectTool(continuous=False, name=f"{name}-lasso")
    drawn.add_tools(
        lasso,
        BoxSelectTool(name=f"{name}-box"),
        PanTool(name=f"{name}-move"),
        WheelZoomTool(name=f"{name}-zoom"),
        TapTool(),
        HoverTool(tooltips=None, point_policy="follow_mouse", renderers=[spots]),
    )
    drawn.toolbar.active_drag, drawn.toolbar.active_scroll = lasso, None


def _ratio(places: NDArray, margin: float) -> float:
    width, height = np.ptp(places, axis=0) + margin
    return float(np.clip(width / (height or 1.0), *_RATIOS))


def _isotropic(name: str, places: NDArray, ratio: float, margin: float = 0.0) -> figure:
    """A figure with nothing around it, in which a length is the same in both directions; y runs down."""
    low, high = places.min(axis=0).astype(float), places.max(axis=0).astype(float)
    width, height = (high - low + margin) * _PADDING
    height = max(height, width / ratio) or 1.0
    middle, half = (low + high) / 2, np.array([height * ratio, height]) / 2
    drawn = figure(
        name=name,
        tools="",
        toolbar_location=None,
        sizing_mode="stretch_width",
        aspect_ratio=ratio,
        x_range=Range1d(start=middle[0] - half[0], end=middle[0] + half[0]),
        y_range=Range1d(start=middle[1] + half[1], end=middle[1] - half[1]),
        min_border=0,
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
    )
    drawn.axis.visible = False
    drawn.grid.visible = False
    return drawn


# ---------------------------------------------------------------------------- charts


def _chart(name: str, x_label: str, y_label: str, **kwargs: Any) -> figure:
    drawn = figure(
        name=name,
        tools="",
        toolbar_location=None,
        sizing_mode="stretch_width",
        **{"height": 270, "x_axis_label": x_label, "y_axis_label": y_label, **kwargs},
    )
    drawn.background_fill_color = drawn.border_fill_color = drawn.outline_line_color = None
    drawn.xgrid.visible = False
    for axis in drawn.axis:
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font = axis.axis_label_text_font = FONT
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
    return drawn


def _finish(drawn: figure) -> figure:
    """The legend above the plot, where it hides nothing."""
    legends: list[Any] = list(drawn.legend)
    for legend in legends:
        legend.border_line_color = legend.background_fill_color = None
        legend.label_text_font = FONT
        legend.label_text_font_size, legend.padding, legend.margin = "12px", 0, 4
        legend.glyph_width, legend.spacing, legend.orientation = 18, 12, "horizontal"
        legend.ncols = 2 if len(legend.items) > 3 else "auto"  # four in a row are wider than a phone
        drawn.add_layout(legend, "above")
    return drawn


def _line(drawn: figure, curve: Curve, color: str, **kwargs: Any) -> None:
    looks: dict[str, Any] = {"color": color, "line_width": 2, **kwargs}
    if curve.name:
        looks["legend_label"] = curve.name
    drawn.line(curve.x, curve.y, **looks)


def course(key: str, found: Course) -> figure:
    """Quantities by epoch, with the tolerated value."""
    label = found.unit or ("" if found.log else found.title)  # several quantities are named in the legend
    drawn = _chart(
        key,
        "epoch",
        label,
        y_axis_type="log" if found.log else "linear",
        x_range=Range1d(*found.x_range),
        y_range=Range1d(*found.y_range),
    )
    for curve in found.curves:
        _line(drawn, curve, _palette.LINES[curve.name])
    if found.target is not None:
        ends = np.array(found.x_range)
        line = Curve(f"target {found.target:g}", ends, np.full(2, found.target))
        _line(drawn, line, GREY, line_dash="dashed")
    _set_ticks(drawn.xaxis, found.x_ticks)
    _set_ticks(drawn.yaxis, found.y_ticks)
    return _finish(drawn)


def profile(found: Profile) -> figure:
    """L(ε), with the band and the point that are certified."""
    drawn = _chart(
        "profile", "share of broken pairs ε", "distortion constant L(ε)", y_axis_type="log", height=340
    )
    point = [] if found.point is None else [found.point[1]]
    top, ticks = _data.factor_axis([*np.concatenate([curve.y for curve in found.curves]), *point])
    if found.low is not None and found.high is not None:
        low, high = np.nan_to_num(found.low.y, nan=1.0), np.nan_to_num(found.high.y, nan=top, posinf=top)
        drawn.varea(
            found.low.x, low, np.minimum(high, top), color=SECOND, alpha=0.16,
            legend_label=f"{found.confidence:.0%} band",
        )  # fmt: skip
    for curve in found.curves:
        _line(drawn, curve, _palette.LINES[curve.name])
    if found.point is not None:
        drawn.scatter([found.point[0]], [found.point[1]], size=10, color=SECOND, legend_label="certified")
    drawn.y_range = Range1d(start=1, end=top)
    drawn.x_range = Range1d(start=0, end=_data.EPSILONS[-1])
    _set_ticks(drawn.yaxis, ticks)
    return _finish(drawn)


def _set_ticks(axes: Any, values: NDArray) -> None:
    axes.ticker = values.tolist()
    axes.major_label_overrides = {value: f"{value:g}" for value in values.tolist()}


def shepard(key: str, found: Density) -> figure:
    """Pairs by scaled tissue and latent distance: darker where there are more."""
    drawn = _chart(
        key,
        "tissue distance λ d_S",
        "latent distance d_Z",
        height=340,
        x_range=Range1d(start=0, end=found.limit),
        y_range=Range1d(start=0, end=found.limit),
    )
    share = np.sqrt(found.counts / max(found.counts.max(), 1))
    color = np.zeros((*share.shape, 4), dtype=np.uint8)
    color[..., :3] = [int(ACCENT[i : i + 2], 16) for i in (1, 3, 5)]
    color[..., 3] = np.round(230 * share)
    image: Any = [color.view(np.uint32)[..., 0]]
    drawn.image_rgba(image=image, x=0, y=0, dw=found.limit, dh=found.limit)
    ends = np.array([0.0, found.limit])
    _line(drawn, Curve("d_Z = λ d_S", ends, ends), GREY, line_dash="dashed")
    drawn.varea(found.middle, found.low, found.high, color=SECOND, alpha=0.22, legend_label="10–90 %")
    _line(drawn, Curve("median", found.middle, found.median), SECOND)
    _set_ticks(drawn.xaxis, found.ticks)
    _set_ticks(drawn.yaxis, found.ticks)
    return _finish(drawn)


def ellipses(key: str, found: Ellipses, ratio: float) -> figure:
    """Ellipses over the spots, coloured by anisotropy."""
    reach = found.half_axes[:, :1]
    outline = np.concatenate([found.centres - reach, found.centres + reach, found.background])
    drawn = _isotropic(key, outline, ratio)
    drawn.scatter(found.background[:, 0], found.background[:, 1], size=1.5, color=GREY, alpha=0.5)
    source = ColumnDataSource(
        {
            "x": found.centres[:, 0],
            "y": found.centres[:, 1],
            "width": 2 * found.half_axes[:, 0],
            "height": 2 * found.half_axes[:, 1],
            "angle": -found.angle,  # y runs down
            "anisotropy": found.anisotropy,
        }
    )
    low, high = _data.ANISOTROPY
    shades = LinearColorMapper(palette=ramp("anisotropy"), low=low, high=high, nan_color=_palette.MISSING)
    drawn.ellipse(
        "x", "y", "width", "height", "angle", source=source, line_color=GREY, line_width=0.5,
        fill_color={"field": "anisotropy", "transform": shades}, fill_alpha=0.8,
    )  # fmt: skip
    return drawn


def view_ratio(spots: Views) -> float:
    """Width by height of the views of a run."""
    return _ratio(_outline(spots), spots.diameter)
