"""Options that several verbs share, and how results are printed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import DEFAULT, Console

Grid = Annotated[
    Path,
    typer.Argument(metavar="GRID", help="Data sets, methods, seeds, splits: .yaml, or a folder of them."),
]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder written by isovi-bench run.")]
Out = Annotated[Path, typer.Option(help="Folder of the results; jobs in it are kept.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help=f"Folder of the data sets. {DEFAULT.format('that of the grid')}",
        show_default=False,
    ),
]


def say(text: str) -> None:
    """Print a text as it is."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def say_paths(paths: Iterable[Path]) -> None:
    """Print one path a line."""
    for path in paths:
        say(str(path))
