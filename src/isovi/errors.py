"""User-facing exceptions. Each states what was received, the rule, and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class IsoviError(Exception):
    """Base class of the errors that isoVI raises deliberately.

    Parameters
    ----------
    received
        What was found, with the name and value that the user knows.
    rule
        What is required.
    remedy
        How the user can fix it.
    """

    def __init__(self, received: str, rule: str, remedy: str) -> None:
        self.received, self.rule, self.remedy = received, rule, remedy
        super().__init__(received, rule, remedy)

    def __str__(self) -> str:
        return f"{self.received} {self.rule} {self.remedy}"


class InputError(IsoviError, ValueError):
    """The data or an argument is invalid."""


class NotAvailableError(InputError, AttributeError):
    """An attribute that this object does not have: ``hasattr`` is ``False``, and saving passes over it."""


class OutputError(IsoviError, OSError):
    """A result cannot be written to the requested location."""


class IsoviWarning(UserWarning):
    """A problem that does not stop the computation."""


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect what isoVI warns of in the block, for the record; it is shown when the block ends.

    Yields
    ------
    A list that holds the texts, each once, after the block.
    """
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", IsoviWarning)
        try:
            yield notes
        finally:
            texts = [str(one.message) for one in said if issubclass(one.category, IsoviWarning)]
            notes.extend(dict.fromkeys(texts))
    for one in said:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno, source=one.source)
