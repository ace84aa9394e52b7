"""Handling of errors, warnings and output of other libraries, shared by all commands."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console as RichConsole
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from isovi import interrupts
from isovi.errors import IsoviError
from isovi.interrupts import Interrupted
from isovi.progress import ConsoleProgress

DEFAULT = "[dim]\\[default: {}][/dim]"  # for options whose default is determined later
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

commands: list[typer.Typer] = []  # the application, whose options messages are translated to
_RENAMED = {"table_name": "--table", "distortion": "--distortion-target, --penalty or --plain"}
_QUOTES = "\"'"
_CALL = r"[A-Za-z_][\w.]*\([^()]*(?:\([^()]*\)[^()]*)*\)"
_TEXT = r'"[^"\n]*"'
_VALUE = rf"{_TEXT}|'[^'\n]*'|[-./~]*\w+(?:[-.:/+]+\w+)*"
_PARAMETER = re.compile(
    rf"""
    \bdistortion=(?:(?P<plain>None|Penalty\(0(?:\.0*)?\))
                 |Constraint\((?:target=)?(?P<target>-?[\d.]+)\)
                 |Penalty\((?:weight=)?(?P<penalty>-?[\d.]+)\))
    | \bpairs=(?P<pairs>[A-Z]\w*\([^()]*\)(?:\s*\|\s*[A-Z]\w*\([^()]*\))*)
    | (?P<kept>{_CALL}|{_TEXT})
    | (?<![\w.-])(?P<name>[a-z_]+)=(?P<value>{_VALUE})?
    | `(?P<bare>[a-z_]+)`
    """,
    re.VERBOSE,
)


# ---------------------------------------------------------------------------- applications


class _PlainFlags:
    """Mixin over a command: its help shows no type behind flags, which take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Parameters of the command."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for flag in (one for one in found if getattr(one, "is_flag", False)):
            vars(flag)["display_type_rich"] = lambda ctx: None  # noqa: ARG005  # typer calls it by this name
        return found


class Verb(_PlainFlags, TyperCommand):
    """A command."""


class Verbs(_PlainFlags, TyperGroup):
    """Commands beneath a name."""


class App(typer.Typer):
    """An application of several commands.

    Parameters
    ----------
    help
        What it is for.
    package
        Distribution whose version ``--version`` prints. Without it the application is part of another one.
    """

    def __init__(self, *, help: str, package: str | None = None) -> None:  # noqa: A002  # as typer calls it
        style: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": "rich"}
        super().__init__(cls=Verbs, help=help, no_args_is_help=True, **style)
        if package is not None:
            self.callback()(_with_version(package))

    def command(self, *args: Any, **kwargs: Any) -> Any:
        """Decorator of a function that makes it a command: its docstring, reflowed, is the help."""

        def made(function: Callable[..., Any]) -> Callable[..., Any]:
            text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(function.__doc__ or ""))
            return super(App, self).command(*args, **{"cls": Verb, "help": text, **kwargs})(function)

        return made


def _with_version(package: str) -> Callable[..., None]:
    def show(asked: bool) -> bool:
        if asked:
            typer.echo(f"{package} {version(package)}")
            raise typer.Exit
        return asked

    shown = typer.Option(False, "--version", callback=show, is_eager=True, help="Show the version and exit.")

    def main(version: bool = shown) -> None:  # noqa: ARG001  # the callback has seen it
        return

    return main


# ---------------------------------------------------------------------------- terminals


class Console(RichConsole):
    """A terminal, file or pipe. Work continues when nobody reads any more, as in ``isovi fit ... | head``."""

    def on_broken_pipe(self) -> None:
        """Write what follows to nowhere."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):  # no real file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


def run(app: typer.Typer) -> None:
    """Run an application: signals end it with their own status, and its output suits every terminal.

    What the encoding of a terminal lacks is written as ``?``. SIGINT and SIGTERM end it with status 130 and
    143 and one line. In a batch job of SLURM the warning that time is up (SIGUSR1) has the job requeued too.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with interrupts.raised():
            app()
    except Interrupted as stopped:
        code = stopped.status
        _say_stopped(stopped)
    else:  # pragma: no cover  # the application exits
        code = 0
    sys.exit(code)


def _say_stopped(stopped: Interrupted) -> None:
    """Say what is kept, in the first of several processes, and have SLURM run the job again if it warned."""
    if any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID")):
        return
    text = escape(as_options(str(stopped)))
    Console(stderr=True).print(f"[red]{text}[/red]", highlight=False, soft_wrap=True)
    job = interrupts.slurm_job()
    if stopped.signal.name == interrupts.SLURM_WARNING and job is not None:
        with contextlib.suppress(OSError):
            subprocess.run(["scontrol", "requeue", job], check=False)


def quiet() -> None:
    """Hide the output of other libraries; warnings of isoVI are shown."""
    from isovi.errors import IsoviWarning

    for name in ("lightning.pytorch", "lightning.fabric", "scvi", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", IsoviWarning)
    warnings.showwarning = note


def note(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line."""
    text = f"[yellow]Note:[/yellow] {escape(as_options(str(message)))}"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


class CommandProgress(ConsoleProgress):
    """Progress on the terminal, with parameters written as options."""

    def say(self, text: str) -> None:
        """Print one line."""
        super().say(as_options(text))


def typed() -> str:
    """The command that was typed, without the folder in which isovi happens to be installed."""
    return shlex.join(["isovi", *sys.argv[1:]])


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Print errors of isoVI as one paragraph and exit with code 2; show the traceback if debugging."""
    try:
        yield
    except KeyboardInterrupt as error:  # raised by other handlers than ours, such as Ray's
        stopped = Interrupted(signal.SIGINT)
        for kept in getattr(error, "__notes__", ()):
            stopped.add_note(kept)
        raise stopped from error
    except IsoviError as error:
        if debug:
            raise
        text = f"[red]Error:[/red] {escape(as_options(str(error)))}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


# ---------------------------------------------------------------------------- parameters as options


def as_options(text: str) -> str:
    """Write the parameters that a message names as options of the command line.

    Parameters
    ----------
    text
        Parameters are written ``name=value``, ``name=`` or `` `name` ``.

    Returns
    -------
    The same text with ``--name value`` and ``--name`` (``no --name`` for ``False`` and ``None``) for every
    parameter that some verb has as an option. Double-quoted text and calls such as ``f(x, name=1)`` stay.

    Examples
    --------
    >>> as_options("Pass min_counts=50, or `layer`.")  # within isovi.cli
    'Pass --min-counts 50, or --layer.'
    """
    options = {name: option for one in commands for name, option in _options(typer.main.get_command(one))}
    return _PARAMETER.sub(lambda found: _as_option(found, {**options, **_RENAMED}), text) if options else text


def _options(command: Any) -> Iterator[tuple[str, str]]:
    """Names of the parameters of all commands, and the options that set them."""
    verbs = getattr(command, "commands", None)
    for verb in () if verbs is None else verbs.values():
        yield from _options(verb)
    for parameter in command.params if verbs is None else ():  # groups have --version and completion only
        if parameter.param_type_name == "option":
            yield parameter.name, parameter.opts[0]


def _as_option(found: re.Match[str], options: dict[str, str]) -> str:
    if found["plain"]:
        return "--plain"
    if found["target"]:
        return f"--distortion-target {found['target']}"
    if found["penalty"]:
        return f"--penalty {found['penalty']}"
    if found["pairs"]:
        return f"--pairs {_pairs(found['pairs'])}"
    option, value = options.get(found["name"] or found["bare"]), found["value"]
    if option is None or (found["name"] == "distortion" and value):  # one that has no option
        return found[0]
    if value in (None, "True"):
        return option
    return f"no {option}" if value in ("False", "None") else f"{option} {shlex.quote(value.strip(_QUOTES))}"


def _pairs(text: str) -> str:
    """Kinds of pairs as the command line writes them: ``knn:6`` for ``Neighbors(6)``."""
    from isovi.graph import KINDS

    names = {kind.__name__: name for name, (kind, _) in KINDS.items()}
    parts = re.findall(r"(\w+)\((?:\w+=)?([^()]*)\)", text)
    words = [":".join(filter(None, (names.get(kind, kind), value.strip(_QUOTES)))) for kind, value in parts]
    return shlex.quote("+".join(words))
