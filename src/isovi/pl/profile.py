"""Distortion profiles and certificates: curves of L against ε."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.geometry.profile import DistortionProfile
from isovi.pl import _canvas, _data, _palette
from isovi.pl._canvas import AxesLike, PathLike
from isovi.tl.certificate import Certificate

_RANGES = ("short", "middle", "long")
_SHADES = ("#D55E00", "#0072B2", "#009E73")  # colours of the ranges, safe for colour vision deficiency
_SIZE = (3.7, 3.2)


def distortion_profile(
    profiles: AnnData | DistortionProfile | Mapping[str, DistortionProfile],
    key: str = "isovi_profile",
    *,
    colors: Sequence[str] | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot L(ε): the factor within which all but a share ε of pairs keep their distance.

    The first panel has one curve per profile, the second shows the first profile by range of tissue distance.

    Parameters
    ----------
    profiles
        Result of :func:`isovi.tl.distortion_profile`, several results by name (e.g. ``{"held out": ...,
        "training": ...}``, held-out spots first), or an AnnData with a profile in ``uns[key]``.
    key
        Key in ``uns``.
    colors
        Colours of the curves of the first panel.
    ax
        Two Axes to draw on, or one for the first panel only; ``None`` creates a figure with two panels.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    Array of the two Axes, or the single Axes.

    Raises
    ------
    InputError
        If there is no profile, or `ax` has the wrong number of Axes.
    """
    named = _named(profiles, key)
    axes = _canvas.panels(1 if isinstance(ax, Axes) else 2, ax, columns=2, size=_SIZE)
    shades = colors or _palette.categorical(len(named))
    for color, (name, curve) in zip(shades, named.items(), strict=False):
        _line(axes[0], curve["epsilon"], curve["L"], color, _canvas.words(name))
    _finish(axes[0], "all pairs", legend=len(named) > 1)
    if len(axes) == 2:
        name, curve = next(iter(named.items()))
        _draw_ranges(axes[1], curve)
        _finish(
            axes[1],
            f"{_canvas.words(name)}: by tissue distance" if name else "by tissue distance",
            legend=True,
        )
        _share_limits(axes)
    _canvas.write(axes, save)
    return _canvas.result(axes)


def certificate(
    found: Certificate | Mapping[str, Certificate],
    *,
    colors: Sequence[str] | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes:
    """Plot certified and measured L(ε) of held-out pairs.

    The dashed line is measured on the disjoint pairs, the solid line is certified for all ε at once, and the
    dot is the tighter certificate for a single ε.

    Parameters
    ----------
    found
        Result of :func:`isovi.tl.certificate`, or several results by name.
    colors
        One colour per certificate.
    ax
        Axes to draw on; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes.
    """
    named = found if isinstance(found, Mapping) else {"": found}
    (panel,) = _canvas.panels(1, ax, columns=1, size=(6.6, 3.2))
    shades = colors or _palette.categorical(len(named))
    for color, (name, one) in zip(shades, named.items(), strict=False):
        _draw_certificate(panel, one, color, name)
    _finish(panel, f"confidence {1 - next(iter(named.values())).delta:.0%}", legend=False)
    panel.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panel.set_xlim(0, 1)
    _canvas.set_ticks(panel.xaxis, [0, 0.2, 0.4, 0.6, 0.8, 1])
    _canvas.write([panel], save)
    return panel


def _draw_certificate(ax: Axes, one: Certificate, color: str, name: str) -> None:
    measured, certified = one.curve.profile.curve(_data.EPSILONS), one.curve.curve(_data.EPSILONS)
    prefix = f"{_canvas.words(name)}: " if name else ""
    _line(ax, *_xy(measured), color, f"{prefix}measured, {one.n_pairs} pairs", linestyle="--")
    _line(ax, *_xy(certified), color, f"{prefix}certified, all ε at once")
    if one.point is not None:
        label = f"{prefix}certified, L({one.point.epsilon:g}) ≤ {one.point.L:.3g}"
        ax.plot(one.point.epsilon, one.point.L, "o", color=color, markersize=6, label=label)


def _xy(curve: Sequence) -> tuple[NDArray, NDArray]:
    return np.array([point.epsilon for point in curve]), np.array([point.L for point in curve])


def _named(
    profiles: AnnData | DistortionProfile | Mapping[str, DistortionProfile], key: str
) -> dict[str, dict[str, NDArray]]:
    """Arrays ``epsilon`` and ``L``, and ``high`` and ``by_range`` of the ranges, of each profile."""
    if isinstance(profiles, AnnData):
        return {"": _stored(profiles, key)}
    by_name = profiles if isinstance(profiles, Mapping) else {"": profiles}
    return {name: _arrays(profile) for name, profile in by_name.items()}


def _arrays(profile: DistortionProfile) -> dict[str, NDArray]:
    epsilon, large = _xy(profile.curve(_data.EPSILONS))
    by_range = [_xy(part.profile.curve(_data.EPSILONS))[1] for part in profile.bins]
    return {
        "epsilon": epsilon,
        "L": large,
        "high": np.array([part.high for part in profile.bins]),
        "by_range": np.array(by_range),
    }


def _stored(adata: AnnData, key: str) -> dict[str, NDArray]:
    if key not in adata.uns:
        raise InputError(
            f'uns has no key "{key}" (it has: {", ".join(map(str, adata.uns)) or "none"}).',
            "The profile to draw is read from uns.",
            "Run isovi.tl.distortion_profile(adata) first, or pass another key.",
        )
    found = adata.uns[key]
    return {
        "epsilon": np.asarray(found["epsilon"]),
        "L": np.asarray(found["L"]),
        "high": np.asarray(found["bins"]["high"]),
        "by_range": np.asarray(found["bins"]["L"]),
    }


def _draw_ranges(ax: Axes, curve: Mapping[str, NDArray]) -> None:
    names = _RANGES if len(curve["high"]) == len(_RANGES) else [""] * len(curve["high"])
    for name, color, high, large in zip(names, _SHADES, curve["high"], curve["by_range"], strict=False):
        _line(ax, curve["epsilon"], large, color, f"{name} (up to {high:.3g} spacings)".strip())


def _line(ax: Axes, epsilon: NDArray, large: NDArray, color: str, label: str, linestyle: str = "-") -> None:
    known = np.isfinite(large)
    ax.plot(
        epsilon[known], large[known], color=color, linewidth=1.6, label=label or None, linestyle=linestyle
    )


def _finish(ax: Axes, title: str, *, legend: bool) -> None:
    ax.set_title(title, fontsize="medium")
    ax.set(xlabel="share of broken pairs ε", ylabel="distortion constant L(ε)", xlim=(0, _data.EPSILONS[-1]))
    ax.set_yscale("log")
    top, ticks = _data.factor_axis(value for line in ax.get_lines() for value in np.ravel(line.get_ydata()))
    ax.set_ylim(1, top)
    _canvas.set_ticks(ax.yaxis, ticks)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    _canvas.plain(ax)
    if legend:
        ax.legend(frameon=False, fontsize="small")


def _share_limits(axes: Sequence[Axes]) -> None:
    """The same range and ticks, those of the panel that reaches farthest."""
    farthest = max(axes, key=lambda ax: ax.get_ylim()[1])
    for ax in axes:
        ax.set_ylim(farthest.get_ylim())
        _canvas.set_ticks(ax.yaxis, farthest.get_yticks())
