"""What a report shows of distances: distortion profile with its confidence band, Shepard plots, ellipses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isovi import tl
from isovi.geometry.tissot import TissotEllipses
from isovi.pl import _data
from isovi.pl._data import Curve, Density
from isovi.report.record import Ellipses, Profile
from isovi.run import Run
from isovi.spots import HELDOUT
from isovi.tl.certificate import Certificate

_N_BACKGROUND = 4_000


def profile(run: Run) -> Profile:
    """L(ε) of held-out and training spots, with the confidence band that held-out pairs allow."""
    asked: dict[str, Any] = {"seed": run.settings.seed, **run.settings.keys}
    curves = []
    for part, cells in run.parts().items():
        points = tl.distortion_profile(run.adata, cells=cells, **asked).curve(_data.EPSILONS)
        curves.append(Curve(_data.NAMES[part], _data.EPSILONS, np.array([point.L for point in points])))
    if HELDOUT not in run.parts():
        return Profile(curves, None, None, 0.0, 0, None)
    found = run.certificate()
    point = None if found.point is None else (found.point.epsilon, found.point.L)
    return Profile(curves, *band(found), 1 - found.delta, found.n_pairs, point)


def band(found: Certificate) -> tuple[Curve, Curve]:
    """Bounds of L at each ε for pairs of new spots, all ε at once.

    Every interval's share of pairs is within 2η of the measured one (Dvoretzky, Kiefer and Wolfowitz), so the
    true L(ε) lies between the measured L(ε + 2η) and L(ε - 2η).
    """
    measured, width = found.curve.profile, 2 * found.eta
    low = [measured.for_epsilon(e + width).L if e + width < 1 else 1.0 for e in _data.EPSILONS]
    high = [found.curve.for_epsilon(e).L for e in _data.EPSILONS]
    return Curve("low", _data.EPSILONS, np.array(low)), Curve("high", _data.EPSILONS, np.array(high))


def shepard(run: Run) -> tuple[Density, ...]:
    """Latent against scaled tissue distances of sampled pairs, held-out spots first."""
    latent = run.latent("place")
    pairs = _data.shepard_pairs(latent, run.spots, run.metrics["distance_scale"])
    return _data.densities(*pairs) if pairs[0] else ()


def ellipses(run: Run, found: TissotEllipses) -> tuple[Ellipses, ...]:
    """Ellipses in tissue and in the latent view, evenly spread over the tissue; none if no spot has one."""
    latent = run.latent("place")
    tissue, _ = _data.side_by_side(run.spots)
    background = _data.spread(run.spots.coordinates, run.spots.section, _N_BACKGROUND)
    views = {
        "tissue": _data.ellipse_view(found, tissue, latent, "spatial"),
        "latent": _data.ellipse_view(found, run.spots.coordinates[:, :2], latent, "latent"),
    }
    return tuple(_record(name, one, found, background) for name, one in views.items() if len(one.rows))


def _record(
    name: str, view: _data.EllipseView, found: TissotEllipses, background: NDArray[np.int64]
) -> Ellipses:
    return Ellipses(
        name,
        view.positions[view.rows].astype(np.float32),
        view.half_axes.astype(np.float32),
        view.angle.astype(np.float32),
        found.anisotropy[view.rows].astype(np.float32),
        view.positions[background].astype(np.float32),
    )
