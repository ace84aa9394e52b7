"""Inspect, store and simulate data: ``isovi inspect``, ``isovi pack`` and ``isovi simulate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import Console, Debug, quiet, reported
from isovi.cli.options import (
    INPUT,
    Coordinates,
    CoordinateSystem,
    KeepControls,
    MinCounts,
    RoundCounts,
    SectionKey,
    SpatialKey,
    Table,
    fit_command,
    path,
)


class Kind(StrEnum):
    """Kind of simulated tissue."""

    layers = "layers"
    blobs = "blobs"
    ring = "ring"


def inspect(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT, parser=path)],
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    debug: Debug = False,
) -> None:
    """Show what a file contains, what isovi fit would use, and what is missing.

    Supported are .h5ad, .zarr of AnnData and SpatialData, folders of Visium, Visium HD, Xenium,
    MERSCOPE and CosMx, 10x .h5, Matrix Market files, and counts tables (.csv, .tsv, .parquet).

    Example: [bold]isovi inspect outs[/bold]
    """
    from isovi.cli import tables
    from isovi.data.inspect import inspect as look
    from isovi.data.io import Source

    with reported(debug):
        quiet()
        found = look(Source(file, table, coordinate_system, coordinates))
        Console().print(tables.inspection(found))
        if found.missing:
            verdict = ["Missing:", *(f"- {text}" for text in found.missing)]
        else:
            options = {**found.source.options, **found.parameters}
            verdict = ["To fit it:", f"  {fit_command(file, options)}"]
        for line in verdict:
            Console().print(line, markup=False, highlight=False, soft_wrap=True)


def pack(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT, parser=path)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Store to write: .zarr.", parser=path)],
    spatial_key: SpatialKey = "spatial",
    section_key: SectionKey = None,
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    min_counts: MinCounts = 0,
    keep_controls: KeepControls = False,
    round_counts: RoundCounts = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier store.")] = False,
    debug: Debug = False,
) -> None:
    """Store a data set so that isovi fit need not hold its counts in memory.

    Example: [bold]isovi pack atlas.h5ad atlas.zarr --section-key sample[/bold]
    """
    from isovi.data.io import Source
    from isovi.data.pack import pack as run

    with reported(debug):
        quiet()
        source = Source(file, table, coordinate_system, coordinates)
        packed = run(
            source,
            out,
            spatial_key=spatial_key,
            section_key=section_key,
            min_counts=min_counts,
            keep_controls=keep_controls,
            round_counts=round_counts,
            force=force,
        )
        wrote = (
            f"Packed {packed.n_obs} cells x {packed.n_vars} genes in {packed.n_sections} section(s) to {out}"
        )
        Console().print(wrote, markup=False, highlight=False, soft_wrap=True)


def simulate(
    out: Annotated[Path, typer.Option(help="File to write: .h5ad or .zarr.", parser=path)],
    kind: Annotated[Kind, typer.Option(help="Kind of tissue.")] = Kind.layers,
    n_obs: Annotated[int, typer.Option(help="Number of spots, over all sections.")] = 1000,
    n_genes: Annotated[int, typer.Option(help="Number of genes.")] = 300,
    n_sections: Annotated[int, typer.Option(help="Number of sections.")] = 1,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    debug: Debug = False,
) -> None:
    """Write a simulated tissue of known geometry with negative binomial counts.

    Example: [bold]isovi simulate --kind layers --out tissue.h5ad[/bold]
    """
    from isovi.data import io
    from isovi.simulate import simulate as draw

    with reported(debug):
        ours = "uns/isovi_simulation"
        io.require_writable(out, force=force, ours=ours)
        with io.exclusive(out):
            io.require_room(out, n_obs * n_genes // 4)  # compressed counts
            adata = draw(kind.value, n_obs, n_genes, n_sections, seed=seed)
            io.write_atomic(adata, out, force=force, ours=ours)
        wrote = f"Wrote {adata.n_obs} spots x {adata.n_vars} genes to {out}"
        Console().print(wrote, markup=False, highlight=False, soft_wrap=True)
