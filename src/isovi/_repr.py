"""Short representations of models and records: a few lines of text, and a small table in notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

import numpy as np

Rows = Mapping[str, Any]

_NAMED = 3  # entries of a list that are shown by name


class ReprMixin:
    """Mixin with a short ``repr`` and HTML table instead of the full contents.

    Dataclasses with this mixin need ``repr=False``. They show their fields unless they define their own
    ``summary``. Values are shortened by :func:`short_repr`.
    """

    def summary(self) -> Rows:
        """Values shown in the representation, by name."""
        if not is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __repr__(self) -> str:
        return as_text(type(self).__name__, self.summary())

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self.summary())


def as_text(title: str, rows: Rows) -> str:
    """Title, and one line per name and value."""
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:{width}}  {short_repr(value)}" for name, value in rows.items())])


def as_html(title: str, rows: Rows) -> str:
    """HTML table of names and values, with markup escaped."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(short_repr(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{cells}</tbody></table>"


def short_repr(value: Any) -> str:
    """Short one-line representation of a value of any size.

    Examples
    --------
    >>> short_repr(np.linspace(0, 1, 1000).reshape(-1, 2))
    'array of shape (500, 2), 0 to 1'
    >>> short_repr(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, ReprMixin):
        return type(value).__name__
    if isinstance(value, Mapping):
        named = [f"{name}: {short_repr(item)}" for name, item in list(value.items())[:_NAMED]]
        return _listed(named, len(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _listed([short_repr(item) for item in value[:_NAMED]], len(value))
    return " ".join(str(value).split())


def _listed(named: list[str], n: int) -> str:
    if not n:
        return "none"
    return ", ".join(named) + (f" and {n - len(named)} more" if n > len(named) else "")


def _array(values: np.ndarray) -> str:
    shape = f"array of shape {values.shape}"
    if values.dtype == bool:
        return f"{int(values.sum())} of {values.size}"
    if not np.issubdtype(values.dtype, np.number):
        named = [str(name) for name in dict.fromkeys(values.ravel().tolist())]
        return f"{shape}: {_listed(named[:_NAMED], len(named))}"
    known = values[np.isfinite(values)]
    if not known.size:
        return f"{shape}, none finite"
    missing = values.size - known.size
    return f"{shape}, {known.min():.4g} to {known.max():.4g}" + (f", {missing} not finite" if missing else "")
