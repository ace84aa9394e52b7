"""Options shared by several commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isovi.cli.console import DEFAULT
from isovi.errors import InputError

if TYPE_CHECKING:
    from isovi.run import Settings


def path(text: str) -> Path:
    """A path that was given: an empty one, as of a variable that is not set, is not the working directory."""
    if not text:
        raise typer.BadParameter("The path is empty.")
    return Path(text)


INPUTS, MODEL, SEARCH, TRAINING = "Input", "Model", "Search", "Split and training"  # groups of options

INPUT = "Input file or folder, in any format that isovi inspect supports. It is not changed."
Table = Annotated[
    str | None, typer.Option(help="SpatialData table to read, if several.", rich_help_panel=INPUTS)
]
CoordinateSystem = Annotated[
    str | None, typer.Option(help="Coordinate system of SpatialData.", rich_help_panel=INPUTS)
]
Coordinates = Annotated[
    Path | None,
    typer.Option(help="Table of positions: names, x, y.", parser=path, rich_help_panel=INPUTS),
]
MinCounts = Annotated[int, typer.Option(help="Leave out spots with fewer counts.", rich_help_panel=INPUTS)]
KeepControls = Annotated[
    bool,
    typer.Option("--keep-controls", help="Keep control probes and blanks as genes.", rich_help_panel=INPUTS),
]
RoundCounts = Annotated[
    bool,
    typer.Option("--round-counts", help="Round corrected (ambient RNA) counts.", rich_help_panel=INPUTS),
]
SpatialKey = Annotated[str, typer.Option(help="Key in obsm of the positions.", rich_help_panel=INPUTS)]
SectionKey = Annotated[
    str | None, typer.Option(help="Column of obs with the tissue section.", rich_help_panel=INPUTS)
]
BatchKey = Annotated[
    str | None, typer.Option(help="Column of obs with the batch, as in scVI.", rich_help_panel=INPUTS)
]
Layer = Annotated[
    str | None,
    typer.Option(
        help=f"Layer with raw counts. {DEFAULT.format('X')}", show_default=False, rich_help_panel=INPUTS
    ),
]
TopGenes = Annotated[int, typer.Option(help="Number of variable genes; 0 for all.", rich_help_panel=TRAINING)]
Holdout = Annotated[str, typer.Option(help="Share to hold out, or section:NAME.", rich_help_panel=TRAINING)]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a pickled model, which may run code.")
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        help=f"Maximum epochs. {DEFAULT.format('by number of spots')}",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]


def settings_of(options: Mapping[str, Any], **others: Any) -> Settings:
    """Settings from the options of the same names, but for others that are given as they are."""
    from isovi.run import Settings

    names = {one.name for one in fields(Settings)} & options.keys()
    return Settings(**{name: options[name] for name in names} | others)


def fit_command(path: Path, parameters: Mapping[str, Any]) -> str:
    """The ``isovi fit`` of these parameters, as it is typed.

    Examples
    --------
    >>> fit_command(Path("my section.h5ad"), {"n_latent": 5})
    "isovi fit 'my section.h5ad' --out run --n-latent 5"
    """
    file = f"./{path}" if str(path).startswith("-") else str(path)
    words = ["isovi", "fit", file, "--out", "run"]
    for name, value in parameters.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def values_of(text: str, kind: Callable[[str], Any], flag: str) -> list[Any]:
    """Values with commas between.

    Parameters
    ----------
    text
        For example ``"0.1,0.2"``.
    kind
        Makes a value of a word.
    flag
        Option that is named if it cannot.

    Raises
    ------
    InputError
        If a word is no such value.

    Examples
    --------
    >>> values_of("5,10", int, "--n-latents")
    [5, 10]
    """
    try:
        return [kind(word.strip()) for word in text.split(",") if word.strip()]
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{flag} {text} was given.",
            f"It takes values of type {kind.__name__} with commas between.",
            "Write for example 5,10." if kind is int else "Write for example 0.1,0.2.",
        ) from error
