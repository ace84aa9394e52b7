"""Place cells without positions: ``isovi place``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isovi.cli.console import DEFAULT, CommandProgress, Console, Debug, quiet, reported
from isovi.cli.options import CoordinateSystem, MinCounts, RoundCounts, Table, TrustPickle, path


def place(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder written by isovi fit.", parser=path)],
    query: Annotated[Path, typer.Option(help="Cells with raw counts. It is not changed.", parser=path)],
    out: Annotated[Path, typer.Option(help="File to write: .h5ad or .zarr.", parser=path)],
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    layer: Annotated[
        str | None,
        typer.Option(help=f"Layer with raw counts. {DEFAULT.format('as in the run')}", show_default=False),
    ] = None,
    min_counts: MinCounts = 0,
    round_counts: RoundCounts = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    trust: TrustPickle = False,
    debug: Debug = False,
) -> None:
    """Place cells without positions in the tissue of a run.

    Each cell gets a position and a radius in the units of the run, and a flag if it is unlike the
    reference. The disc covers the true position for 90 % of cells like the reference.

    Example: [bold]isovi place run --query cells.h5ad --out placed.h5ad[/bold]
    """
    from isovi import files
    from isovi.cli.tables import placement
    from isovi.data.io import Source

    with reported(debug):
        quiet()
        console, source = Console(), Source(query, table, coordinate_system)
        asked: dict[str, Any] = {"layer": layer, "min_counts": min_counts, "round_counts": round_counts}
        asked |= {"seed": seed, "force": force, "trust": trust}
        found = files.place(run, source, out, **asked, progress=CommandProgress(console))
        if found.get("errors"):
            console.print(placement(found["errors"]))
