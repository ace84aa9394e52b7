"""Settings of a method as a grid writes them: plain values, refused if the method does not have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from isovi.errors import InputError
from isovi.graph import AllPairs, PairKind, parse_pairs
from isovi.model.objective import Constraint, Distortion, Penalty

NETWORK = ("n_latent", "n_hidden", "n_layers", "dropout_rate")
DISTANCES = (
    "target",
    "penalty",
    "normalization",
    "relative",
    "distance",
    "scale",
    "per_section",
    "pairs",
    "n_place",
)


def take(name: str, given: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The settings given, once each is found to be one of the method's.

    Parameters
    ----------
    name
        The method.
    given
        What the grid says.
    known
        What the method takes.

    Raises
    ------
    InputError
        If the method does not take one of them.
    """
    known = tuple(known)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(
            f"The method {name} was given the settings {', '.join(unknown)}.",
            f"Its settings are {', '.join(known)}.",
            "Drop the others, or correct their spelling.",
        )
    return dict(given)


def among(settings: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings that have one of the names."""
    return {key: settings[key] for key in names if key in settings}


def distortion_of(settings: dict[str, Any], default: Distortion = Constraint()) -> Distortion:  # noqa: B008
    """The distance term that the settings describe.

    Parameters
    ----------
    settings
        ``target`` of a constraint, or the weight ``penalty`` with ``normalization`` and ``relative``; with
        either ``distance``, ``scale``, ``per_section`` and ``n_place``. See :class:`isovi.Constraint` and
        :class:`isovi.Penalty`. A penalty is of the whole latent unless ``n_place`` is given, as in the paper.
    default
        Used if neither a target nor a penalty is given; the default constraint.

    Raises
    ------
    InputError
        If both are given, a penalty's setting is given without one, or a value is out of range.
    """
    shared = among(settings, ("distance", "scale", "per_section", "n_place"))
    of_penalty = among(settings, ("normalization", "relative"))
    if ("penalty" in settings) + ("target" in settings) > 1 or (of_penalty and "penalty" not in settings):
        raise InputError(
            f"The settings {', '.join(among(settings, DISTANCES))} were given together.",
            "They say either the target of a constraint, or a penalty with its normalization and relative.",
            "Give either target or penalty, and normalization and relative with a penalty only.",
        )
    if "target" in settings:
        return Constraint(float(settings["target"]), **shared)
    if "penalty" in settings:
        return Penalty(float(settings["penalty"]), **of_penalty, **{"n_place": 0, **shared})
    return replace(default, **shared)


def pairs_of(settings: dict[str, Any]) -> PairKind:
    """The kind of pairs that the settings name, as the command line writes it; all pairs by default."""
    return parse_pairs(settings["pairs"]) if "pairs" in settings else AllPairs()
