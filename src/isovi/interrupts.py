"""Stopping at a signal: Ctrl-C, a scheduler's SIGTERM, SLURM's warning that time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

REPEATS = 2.0  # seconds in which further signals are the same wish to stop, and do not disturb cleaning up
_STOPPING = (signal.SIGINT, signal.SIGTERM)
SLURM_WARNING = "SIGUSR1"  # what Lightning, too, takes for the warning


class Interrupted(BaseException):
    """A signal asked the program to stop.

    It is no :class:`KeyboardInterrupt`: of that Lightning makes an exit with status 1. What is kept and how
    to resume is in its notes.

    Parameters
    ----------
    signal_number
        Which signal it was.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal = signal.Signals(signal_number)
        super().__init__(self.signal.name)

    @property
    def status(self) -> int:
        """Exit status by which shells and schedulers know the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal

    def __str__(self) -> str:
        said = getattr(self, "__notes__", []) or ["No result was written: run the command again."]
        return f"Stopped by {self.signal.name}. {' '.join(said)}"


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise :class:`Interrupted` at SIGINT and SIGTERM in the block, and in a batch job of SLURM at SIGUSR1.

    Signals that are ignored (as by ``nohup``, or in the background of a script) stay so. Nothing is changed
    outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = _Stop()
    numbers = [number for number in _signals() if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda lost: _again(lost, stop, unraisable)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def as_keyboard_interrupts() -> Iterator[None]:
    """Have the signals of :func:`raised` raise :class:`KeyboardInterrupt` in the block.

    For libraries whose compiled code knows that alone. :class:`Interrupted` leaves the block, with the signal
    and the notes. Nothing is changed where :func:`raised` is not in force.
    """
    found = [handler for number in _signals() if isinstance(handler := signal.getsignal(number), _Stop)]
    if not found:
        yield
        return
    stop = found[0]  # one handler for all of them
    stop.raises = KeyboardInterrupt
    try:
        yield
    except KeyboardInterrupt as error:
        stopped = Interrupted(stop.number or signal.SIGINT)  # for which a library may have its own handler
        for note in getattr(error, "__notes__", ()):
            stopped.add_note(note)
        raise stopped from error
    finally:
        stop.raises = Interrupted


class _Stop:
    """Handler of signals; those that follow closely are taken for the first one."""

    def __init__(self) -> None:
        self.raised_at = -float("inf")
        self.number: int | None = None  # of the last signal that raised an exception
        self.raises: type[BaseException] = Interrupted

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.raised_at < REPEATS:
            return
        self.raised_at, self.number = now, number
        raise self.raises(number)


def _again(lost: Any, stop: _Stop, otherwise: Callable[[Any], Any]) -> None:
    """Send the signal again if its exception was raised where none can be, as in a destructor."""
    if stop.number is None or not isinstance(lost.exc_value, Interrupted | KeyboardInterrupt):
        otherwise(lost)
        return
    stop.raised_at = -float("inf")
    threading.Timer(0.01, os.kill, (os.getpid(), stop.number)).start()


def _signals() -> list[signal.Signals]:
    return [*_STOPPING, *([getattr(signal, SLURM_WARNING)] if slurm_job() else [])]


def slurm_job() -> str | None:
    """Identifier of the batch job of SLURM that this program is part of, as ``scontrol requeue`` takes it."""
    if "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None  # as Lightning tells batch jobs from interactive ones
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def is_restarted() -> bool:
    """Whether SLURM runs the job of this program another time, after it was requeued."""
    return slurm_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def kept_at(text: str) -> Iterator[None]:
    """Note on the exception of a signal in the block what is kept."""
    try:
        yield
    except Interrupted as stopped:
        stopped.add_note(text)
        raise


@dataclass(frozen=True)
class Handlers:
    """Handlers of SIGINT and SIGTERM as they are when this is made, to put back what a library replaces."""

    kept: dict[int, Any] = field(
        default_factory=lambda: {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
        }
    )

    def restore(self) -> None:
        """Put them back; only the main thread can.

        In a batch job of SLURM what a library has set stays if nothing was set before: Lightning's handlers
        let the job be requeued.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self.kept.items():
            replaced = handler is not signal.SIG_DFL or slurm_job() is None
            if handler is not None and replaced:  # None: set by another language
                signal.signal(number, handler)
