"""Measurements that take long: how far they are, and what an interrupted one resumes from."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from isovi.errors import InputError
from isovi.progress import ConsoleProgress, duration
from isovi_bench.rows import Rows

SUFFIX = ".partial.jsonl"
T = TypeVar("T")


@contextmanager
def unfinished(out: Path | None, asked: dict[str, Any]) -> Iterator[Rows]:
    """Rows of a measurement, kept beside its output until the block has ended well.

    Parameters
    ----------
    out
        File that is written in the block; ``None`` if none is, and then nothing is kept.
    asked
        What is measured and how, as JSON can hold it.

    Yields
    ------
    The rows so far, of which the first is what was asked for.

    Raises
    ------
    InputError
        If another measurement for this output is unfinished.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Rows(Path(folder) / "rows.jsonl")
        return
    rows, about = Rows(out.with_name(out.name + SUFFIX)), {"asked": json.loads(json.dumps(asked))}
    kept = rows.read()
    if len(kept) <= 1:  # nothing was measured
        rows.path.unlink(missing_ok=True)
        rows.add([about])
    elif kept[0] != about:
        before = ", ".join(f"{name} {value}" for name, value in kept[0].get("asked", {}).items())
        raise InputError(
            f'"{rows.path}" is of another measurement ({before}).',
            "An interrupted measurement is resumed with the same options on the same processor.",
            "Give those, another file for the output, or remove that one.",
        )
    try:
        yield rows
    except BaseException as error:
        if len(rows.read()) > 1:
            error.add_note(f"Run the same command to resume: what was measured is in {rows.path}")
        else:
            rows.path.unlink()
        raise
    rows.path.unlink()


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The items one by one; standard error tells how many are done, and how long the others may take.

    Parameters
    ----------
    items
        What is still to be measured.
    what
        What they are, with which a line begins.
    """
    progress, begun = ConsoleProgress(), time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        left = (time.monotonic() - begun) / done * (len(items) - done)
        progress.say(f"{what}: {done} of {len(items)}" + (f", about {duration(left)} left" if left else ""))
