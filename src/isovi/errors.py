"""User-facing exceptions: each says what was received, the rule, and the remedy."""

from __future__ import annotations


class IsoviError(Exception):
    """Base of every error that isoVI raises on purpose.

    Parameters
    ----------
    received
        What was found, with the name and value the user will recognise.
    rule
        What is needed instead.
    remedy
        What the user can do about it.
    """

    def __init__(self, received: str, rule: str, remedy: str) -> None:
        self.received, self.rule, self.remedy = received, rule, remedy
        super().__init__(received, rule, remedy)

    def __str__(self) -> str:
        return f"{self.received} {self.rule} {self.remedy}"


class InputError(IsoviError, ValueError):
    """The data or an argument cannot be used as it is."""


class OutputError(IsoviError, OSError):
    """A result cannot be written where it was asked for."""


class IsoviWarning(UserWarning):
    """Something worth knowing that does not stop the work."""
