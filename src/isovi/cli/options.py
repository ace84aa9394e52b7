"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import DEFAULT

INPUT = "File or folder, any that isovi inspect knows. Never changed."
Table = Annotated[str | None, typer.Option(help="Table of SpatialData with several.")]
CoordinateSystem = Annotated[str | None, typer.Option(help="Of SpatialData's positions.")]
Coordinates = Annotated[Path | None, typer.Option(help="Table of positions: names, x, y.")]
MinCounts = Annotated[int, typer.Option(help="Leave out spots with fewer counts.")]
SpatialKey = Annotated[str, typer.Option(help="Positions in obsm.")]
SectionKey = Annotated[str | None, typer.Option(help="Section in obs; pairs stay within sections.")]
BatchKey = Annotated[str | None, typer.Option(help="Batch in obs, corrected for as by scVI.")]
Layer = Annotated[
    str | None, typer.Option(help=f"Layer of the raw counts. {DEFAULT.format('X')}", show_default=False)
]
TopGenes = Annotated[int, typer.Option(help="Most variable genes; 0 for all.")]
Holdout = Annotated[str, typer.Option(help="Share of spots, or section:NAME.")]
MaxEpochs = Annotated[
    int | None,
    typer.Option(help=f"Epochs at most. {DEFAULT.format('by number of spots')}", show_default=False),
]
