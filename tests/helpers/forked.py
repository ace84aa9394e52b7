"""The command line in processes that are forked from one that has imported isoVI, which takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Event, Timer

from isovi_fuzz.process import context


class Forked:
    """``isovi WORDS``, with what :class:`subprocess.Popen` has of it: both outputs are read as one text.

    Parameters
    ----------
    words
        Arguments of the command line.
    code
        Program to run with these arguments in place of ``isovi``.
    environment
        Variables of its environment, besides those of this process.
    """

    def __init__(self, *words: str, code: str | None = None, **environment: str) -> None:
        reads, writes = Pipe(duplex=False)
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._process = context().Process(target=_command, args=(words, code, variables, writes))
        self._process.start()
        writes.close()
        self.pid: int = self._process.pid
        self.stdout = open(os.dup(reads.fileno()), encoding="utf-8")  # noqa: SIM115  # read until it ends
        reads.close()

    @property
    def returncode(self) -> int | None:
        """Exit status once it has ended; negative for a signal."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self._process.kill()

    def communicate(self, timeout: float = 300) -> str:
        """Wait for its end, and return what it printed that was not read yet.

        Raises
        ------
        subprocess.TimeoutExpired
            If it does not end in time, and was killed.
        """
        late = Event()
        clock = Timer(timeout, lambda: (late.set(), self.kill()))
        clock.start()
        with self.stdout:
            said = self.stdout.read()
        self._process.join()
        clock.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired("isovi", timeout, said)
        return said


def _command(words: tuple[str, ...], code: str | None, variables: dict[str, str], output: Connection) -> None:
    """What the forked process does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    os.environ.clear()
    os.environ.update(variables)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115  # of the process
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115  # likewise
    sys.argv = ["isovi", *words]
    exec(code or "from isovi.cli import main; main()", {"__name__": "__main__"})
