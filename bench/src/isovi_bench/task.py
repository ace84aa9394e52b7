"""What a method is given, what it returns, and how it is made known to the harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from anndata import AnnData

from isovi.errors import InputError


@dataclass(frozen=True)
class Task:
    """One data set with one split, as a method sees it.

    Attributes
    ----------
    seen
        Training and validation spots: raw counts of the chosen genes in ``X`` (CSR),
        ``obsm["spatial"]`` in spacings (shuffled among the spots in a control),
        ``obs["section"]`` and ``obs["isovi_split"]``.
    spots
        Every spot, in the order of the data: raw counts in ``X`` and ``obs["section"]``, no positions.
    rows
        Rows of ``spots`` that ``seen`` holds, shape ``(seen cell,)``.
    seed
        Of whatever the method draws.
    n_domains
        Number of labels of the data set, for methods that need to know it; 7 if it has none.
    max_epochs
        Epochs at most; ``None`` leaves a method its own default.
    """

    seen: AnnData
    spots: AnnData
    rows: np.ndarray
    seed: int
    n_domains: int = 7
    max_epochs: int | None = None


LastStep = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """What a method found.

    Attributes
    ----------
    latent
        Shape ``(cell, latent)`` over ``Task.spots``; rows of NaN where the method cannot place a spot
        in its latent that it did not train on. ``None`` if it has no latent.
    model
        With scvi-tools' methods of likelihood and expression, if the method has them.
    epochs
        Epochs trained, if it counts them.
    n_place
        Number of latent dimensions, the first ones, whose distances are to follow the tissue: metrics of
        distances are theirs, those of mixing are of the others. 0 for all.
    domains
        The method's own last step to domains, ``Task.n_domains`` of them: called where a metric asks for it,
        and returns a name or number for each spot of ``Task.seen``; or which of the common ones its authors
        take, ``"leiden"`` or ``"mixture"``.
    positions
        Its own last step to positions: shape ``(cell, axis)`` over ``Task.spots``, in the frame of
        ``Task.seen``, NaN where it places none.
    expression
        Its estimate of the share of each gene in a spot's molecules: shape ``(cell, gene)`` over
        ``Task.spots``, not negative, NaN where it has none.
    """

    latent: np.ndarray | None
    model: Any | None = None
    epochs: int | None = None
    n_place: int = 0
    domains: LastStep | Literal["leiden", "mixture"] = "leiden"
    positions: LastStep | None = None
    expression: LastStep | None = None

    @property
    def place(self) -> slice:
        """Latent dimensions whose distances are to follow the tissue."""
        return slice(self.n_place or None)

    @property
    def identity(self) -> slice:
        """The other latent dimensions, or all."""
        return slice(self.n_place, None)


@runtime_checkable  # so that tests can check annotations
class Adapter(Protocol):
    """Fits a method to a task; further keywords are the method's settings."""

    def __call__(self, task: Task, **settings: Any) -> Fitted:
        """Fit, and encode every spot."""
        ...


@dataclass(frozen=True)
class Method:
    """A method and what has to be known to compare it fairly.

    Attributes
    ----------
    name
        As a grid names it.
    fit
        The adapter.
    sees_positions
        Whether it trains on positions: it is then also run with these shuffled.
    encodes
        Whether it has a latent for spots that it did not train on.
    smooths
        Whether it averages over the spatial graph: Moran's I of its latent is then partly circular.
    decoder
        Likelihood of its decoder: errors of expression are compared within one kind only.
    reference
        Where it was published.
    """

    name: str
    fit: Adapter
    sees_positions: bool = False
    encodes: bool = True
    smooths: bool = False
    decoder: Literal["counts", "gaussian"] | None = None
    reference: str = ""


METHODS: dict[str, Method] = {}


def method(name: str, **facts: Any) -> Callable[[Adapter], Adapter]:
    """Make an adapter known under a name.

    Parameters
    ----------
    name
        As a grid names it.
    **facts
        Further fields of :class:`Method`.
    """

    def register(fit: Adapter) -> Adapter:
        METHODS[name] = Method(name, fit, **facts)
        return fit

    return register


def find(name: str) -> Method:
    """The method of a name.

    Raises
    ------
    InputError
        If none was made known under it.
    """
    if name not in METHODS:
        raise InputError(
            f"There is no method {name!r}.",
            f"The methods are {', '.join(sorted(METHODS))}.",
            "Name one of them, or the file of your own adapter under adapters.",
        )
    return METHODS[name]
