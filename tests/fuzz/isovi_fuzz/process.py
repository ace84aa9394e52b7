"""Run a function, or the command line, in a process that is forked from one that has imported all."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOADED = (
    *("isovi.cli", "isovi.files", "isovi.diagnose", "isovi.compare", "isovi.report.write", "isovi.tune"),
    *("isovi.simulate", "scanpy", "matplotlib.pyplot", "bokeh.plotting", "isovi_fuzz.inputs"),
    # what a fit imports as it goes on
    *(
        "s3fs",
        "pydantic",
        "matplotlib.backends.backend_agg",
        "scvi.model.base._log_likelihood",
        "xml.etree.ElementTree",
        "pydantic.main",
        "pydantic.type_adapter",
        "rich._emoji_codes",
        "typer._adapters",
    ),
    *(
        "torch.utils.serialization",
        "pandas.io.formats.csvs",
        "anndata.experimental.backed._compat",
        "html.parser",
    ),
)
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
MEMORY = 12 * 2**30  # bytes of addresses; an array that claims more is refused by the system
WRITING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    code
        Exit status; negative for a signal; ``None`` if it did not end in time and was killed.
    text
        What it printed.
    seconds
        How long it took.
    """

    code: int | None
    text: str
    seconds: float


def context() -> Any:
    """Processes forked from one that has imported isoVI."""
    for name in THREADS:
        os.environ.setdefault(name, "1")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(PRELOADED))
    return found


def call(
    function: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    timeout: float,
    kill_after: float | None = None,
) -> Ended:
    """Call a function in a forked process whose working directory is ``folder``; a hanging one is killed.

    Parameters
    ----------
    function, arguments
        What is called; importable, and picklable.
    folder
        Also gets the temporary folder ``tmp`` of the process, and its output, ``log``.
    timeout
        Seconds until it is killed.
    kill_after
        Seconds until it is killed on purpose.
    """
    log = folder.parent / f"{folder.name}.log"
    sockets = tempfile.mkdtemp(prefix="fz")  # of Ray, whose paths must be short
    process = context().Process(target=_run, args=(function, arguments, folder, log, sockets))
    started = time.monotonic()
    process.start()
    process.join(timeout if kill_after is None else kill_after)
    code = process.exitcode
    if code is None:
        _kill(process)
        code = None if kill_after is None else -signal.SIGKILL
    seconds = time.monotonic() - started
    shutil.rmtree(sockets, ignore_errors=True)
    text = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return Ended(code, text, seconds)


def isovi(*words: Any, folder: Path, timeout: float = 300, kill_after: float | None = None) -> Ended:
    """Run a command of isoVI."""
    return call(command, *map(str, words), folder=folder, timeout=timeout, kill_after=kill_after)


def command(*words: str) -> None:
    """The command line, as if it was typed."""
    from isovi.cli import main

    sys.argv = ["isovi", *words]
    main()


def command_killed_at(moment: int, root: str, *words: str) -> None:
    """The command line, killed just before the given change of a file below ``root``, counted from 0."""
    _watch(root, lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == moment else None)
    command(*words)


def command_counted(count: str, root: str, *words: str) -> None:
    """The command line; the number of changes of files below ``root`` is written to the file ``count``."""
    total = [0]

    def note(done: int) -> None:
        total[0] = done + 1

    _watch(root, note)
    try:
        command(*words)
    finally:
        Path(count).write_text(str(total[0]))


def _watch(root: str, act: Callable[[int], None]) -> None:
    """Call ``act`` with the number of changes so far just before Python changes a file below ``root``."""
    owner, done = os.getpid(), [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if os.getpid() != owner:
            return
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, str | os.PathLike | bytes) or not _writes(mode, flags):
                return
        elif event in WRITING:
            path = arguments[0]
        else:
            return
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(root):
            return
        done[0] += 1
        act(done[0] - 1)

    sys.addaudithook(hook)


def _writes(mode: str | None, flags: int) -> bool:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    return any(one in (mode or "") for one in "wxa+") or bool(flags & writing)


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, log: Path, sockets: str
) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ |= {"TMPDIR": str(temporary), "RAY_TMPDIR": sockets, "COLUMNS": "200"}
    tempfile.tempdir = None
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # of the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # which multiprocessing passes over


def _kill(process: Any) -> None:
    """Kill the process and those of its session, which it leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()
