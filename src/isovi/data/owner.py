"""Which process a temporary file or a lock belongs to, and whether that process has ended."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_TEXT = re.compile(r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<started>\d+)")


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes
    ----------
    machine
        Hash of where process numbers mean the same: a machine, or a container with processes of its own.
    process
        Its number.
    started
        When it started, in clock ticks since boot; 0 where there is no /proc.
    """

    machine: str
    process: int
    started: int

    @classmethod
    def current(cls) -> Owner:
        """The process that asks."""
        return cls(this_machine(), os.getpid(), started(os.getpid()) or 0)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The process that :meth:`__str__` was called of; ``None`` for any other text."""
        found = _TEXT.fullmatch(text)
        return found and cls(found["machine"], int(found["process"]), int(found["started"]))

    def __str__(self) -> str:
        return f"{self.machine}-{self.process}-{self.started}"

    def has_ended(self) -> bool:
        """Whether it has certainly ended; its number may be another's by now.

        Of a process of another machine or container, and on Windows, this is not known.
        """
        if os.name != "posix" or self.machine != this_machine():
            return False
        try:
            os.kill(self.process, 0)  # only asks whether it is there
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # there, and another user's
            return False
        return self.started != 0 and started(self.process) != self.started


def this_machine() -> str:
    """Where process numbers mean the same: a machine, or a container with processes of its own."""
    namespace = Path("/proc/self/ns/pid")
    processes = os.readlink(namespace) if namespace.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:8]


def started(process: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` if it has ended, or there is no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *numbers = text[text.rindex(")") + 1 :].split()  # its name may hold anything
    return None if state in "XZ" else int(numbers[18])
