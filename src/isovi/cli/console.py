"""Handling of errors, warnings and output of other libraries, shared by all commands."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from isovi.errors import IsoviError

DEFAULT = "[dim]\\[default: {}][/dim]"  # for options whose default is determined later
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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
    text = f"[yellow]Note:[/yellow] {escape(str(message))}"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def typed() -> str:
    """The command that was typed, without the folder in which isovi happens to be installed."""
    return shlex.join(["isovi", *sys.argv[1:]])


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Print errors of isoVI as one paragraph and exit with code 2; show the traceback if debugging."""
    try:
        yield
    except IsoviError as error:
        if debug:
            raise
        Console(stderr=True).print(f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
