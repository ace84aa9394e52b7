"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import DEFAULT

INPUT = "Input file or folder, in any format that isovi inspect supports. It is not changed."
Table = Annotated[str | None, typer.Option(help="SpatialData table to read, if several.")]
CoordinateSystem = Annotated[str | None, typer.Option(help="Coordinate system of SpatialData.")]
Coordinates = Annotated[Path | None, typer.Option(help="Table of positions: names, x, y.")]
MinCounts = Annotated[int, typer.Option(help="Leave out spots with fewer counts.")]
SpatialKey = Annotated[str, typer.Option(help="Key in obsm of the positions.")]
SectionKey = Annotated[str | None, typer.Option(help="Column of obs with the tissue section.")]
BatchKey = Annotated[str | None, typer.Option(help="Column of obs with the batch, as in scVI.")]
Layer = Annotated[
    str | None, typer.Option(help=f"Layer with raw counts. {DEFAULT.format('X')}", show_default=False)
]
TopGenes = Annotated[int, typer.Option(help="Number of variable genes; 0 for all.")]
Holdout = Annotated[str, typer.Option(help="Share to hold out, or section:NAME.")]
MaxEpochs = Annotated[
    int | None,
    typer.Option(help=f"Maximum epochs. {DEFAULT.format('by number of spots')}", show_default=False),
]
