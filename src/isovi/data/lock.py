"""A lock file: one process at a time, which says who it is, also on network file systems."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from isovi.data.owner import Owner
from isovi.errors import OutputError

_WRITTEN_WITHIN = 1.0  # seconds in which a process that has made its lock file writes its name into it


@contextmanager
def held(file: Path, output: Path, temporary: Path) -> Iterator[None]:
    """Hold a lock while the block runs.

    The file is made by exclusive creation, which network file systems have too (locks of the operating
    system say nothing of who holds them). It names host, process and start of its owner; if that process has
    ended, the lock is taken over.

    Parameters
    ----------
    file
        Lock file; it exists while the lock is held.
    output
        What is locked, for messages.
    temporary
        Name to which the lock of an ended process is moved before it is removed.

    Raises
    ------
    OutputError
        If another process holds it.
    """
    mine = _about()
    while not _create(file, mine):
        found = _read(file)
        if found is None:  # released in the meantime
            continue
        _require_ended(found, file, output)
        _take_away(file, found, temporary)
    try:
        yield
    finally:
        with suppress(OSError):
            if file.read_text(encoding="utf-8") == mine:
                file.unlink()


def _about() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"host": platform.node(), "owner": str(Owner.current()), "since": since})


def _create(file: Path, text: str) -> bool:
    """Make the file with this text; ``False`` if there is one already."""
    try:
        number = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(number, "w", encoding="utf-8") as opened:
            opened.write(text)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return True


def _read(file: Path) -> str | None:
    """Text of the lock; empty if its process was killed before it wrote it, ``None`` if there is no lock."""
    until = time.monotonic() + _WRITTEN_WITHIN
    while True:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        if text or time.monotonic() > until:
            return text
        time.sleep(0.05)


def _require_ended(text: str, file: Path, output: Path) -> None:
    if not text:
        return
    try:
        found = json.loads(text)
        owner = Owner.parse(found["owner"])
        who = f"process {owner.process if owner else '?'} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        owner, who = None, "another process"
    if owner is not None and owner.has_ended():
        return
    here = owner is not None and owner.machine == Owner.current().machine and os.name == "posix"
    remedy = "Wait until it has ended, or choose another output."
    raise OutputError(
        f'"{output}" is being written by {who}.',
        "One process at a time writes an output.",
        remedy if here else f'{remedy} If that process no longer runs, remove "{file}".',
    )


def _take_away(file: Path, text: str, temporary: Path) -> None:
    """Remove the lock of an ended process, unless another process has taken it over in the meantime."""
    with suppress(FileNotFoundError):
        file.rename(temporary)
        if temporary.read_text(encoding="utf-8", errors="replace") == text:
            temporary.unlink()
        else:
            temporary.rename(file)
