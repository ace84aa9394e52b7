"""Memory and processor time of processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from isovi.cli.console import quiet


def peak_memory() -> float:
    """Largest resident memory of this process so far, in megabytes; NaN where the system does not report it.

    On Linux it is read from ``/proc``: the maximum that ``getrusage`` reports may be that of the process that
    started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 2**10
    return _peak("RUSAGE_SELF")


def reset_peak_memory() -> None:
    """Let :func:`peak_memory` begin anew, on Linux; elsewhere it goes on from the largest so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_of_children() -> float:
    """Largest resident memory of any process that this one started and that ended, in megabytes."""
    return _peak("RUSAGE_CHILDREN")


def _peak(whose: str) -> float:
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    size = resource.getrusage(getattr(resource, whose)).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def processor_name() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def processor_seconds() -> float:
    """Processor time of this process and of those that it started and that ended."""
    return sum(os.times()[:4])


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a new interpreter, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=quiet) as pool:
        return pool.apply(function, arguments)
