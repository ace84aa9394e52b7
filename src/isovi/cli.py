"""The command line: parse, call, print."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from isovi import cli_bench
from isovi.cli_console import DEFAULT, Debug, quiet, reported

app = typer.Typer(
    help="Distance-preserving generative models of spatial transcriptomics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
app.add_typer(cli_bench.app, name="bench")


class Backbone(StrEnum):
    """Variational autoencoder under the model."""

    scvi = "scvi"
    vae = "vae"


class Kind(StrEnum):
    """Kind of simulated tissue."""

    layers = "layers"
    blobs = "blobs"
    ring = "ring"


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


@app.command()
def fit(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT)],
    out: Annotated[Path, typer.Option(help="Folder to write, whole or not at all.")],
    backbone: Annotated[Backbone, typer.Option(help="Counts, or Gaussian on logs.")] = Backbone.scvi,
    distortion_target: Annotated[
        float | None,
        typer.Option(help=f"Tolerated relative distortion, 0-1. {DEFAULT.format('0.2')}", show_default=False),
    ] = None,
    penalty: Annotated[
        float | None,
        typer.Option(help="Instead, a fixed weight: nats per unit of distortion."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Same network and training without the term.")
    ] = False,
    pairs: Annotated[
        str,
        typer.Option(help="Pairs whose distances count, see above."),
    ] = "all",
    spatial_key: SpatialKey = "spatial",
    section_key: SectionKey = None,
    batch_key: BatchKey = None,
    label_key: Annotated[str | None, typer.Option(help="Labels in obs to compare domains with.")] = None,
    layer: Layer = None,
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    min_counts: MinCounts = 0,
    n_top_genes: TopGenes = 2000,
    n_latent: Annotated[int, typer.Option(help="Latent dimensions.")] = 10,
    holdout: Holdout = "0.1",
    max_epochs: MaxEpochs = None,
    seed: Annotated[int, typer.Option(help="Of split, training and figures.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run in the folder.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same options.")
    ] = False,
    devices: Annotated[int, typer.Option(help="GPUs (or processes) of each machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines, one launch on each.")] = 1,
    debug: Debug = False,
) -> None:
    """Fit a distance-preserving model: latent, domains, figures of quality, report.

    Spots that are held out take no part in training, in its stopping, or in the choice of genes.
    Lengths are in spacings: the median distance to the nearest neighbour.

    Pairs: all, knn:6, radius:2.5, delaunay, gaussian:2, domain:KEY, obsp:KEY, or joined by +.

    Example: [bold]isovi fit section.h5ad --out run --holdout 0.25[/bold]
    """
    from isovi.graph import parse_pairs
    from isovi.workflow.fit import FitOptions, distortion_of
    from isovi.workflow.fit import fit as run

    with reported(debug):
        quiet()
        distortion = distortion_of(distortion_target, penalty, plain)
        options = FitOptions(
            file, out, backbone.value, distortion, parse_pairs(pairs), spatial_key, section_key, batch_key,
            label_key, layer, n_top_genes, n_latent, holdout, max_epochs, seed, force, resume, devices, nodes,
            table, coordinate_system, coordinates, min_counts,
        )  # fmt: skip
        if run(options, Console()):  # the first process of several has figures
            from isovi.report.write import attempt

            Console().print(attempt(out), markup=False, highlight=False, soft_wrap=True)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT)],
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    debug: Debug = False,
) -> None:
    """Say what is in a file or folder, what isovi fit would use of it, and what is missing.

    Known are .h5ad, .zarr of AnnData and SpatialData, Visium, Visium HD and Xenium folders, 10x .h5
    and counts tables (.csv, .tsv, .parquet).

    Example: [bold]isovi inspect outs[/bold]
    """
    from isovi.data.io import Source
    from isovi.workflow import inspect as workflow

    with reported(debug):
        quiet()
        found = workflow.inspect(Source(file, table, coordinate_system, coordinates))
        Console().print(workflow.table(found))
        Console().print(workflow.verdict(found), markup=False, highlight=False, soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders written by isovi fit.")],
    save: Annotated[Path | None, typer.Option(help="Picture of the runs' latents to write.")] = None,
    debug: Debug = False,
) -> None:
    """Print the figures of several runs side by side, and where their pictures are.

    Example: [bold]isovi compare run plain_run --save latents.png[/bold]
    """
    from isovi.workflow.compare import draw, pictures, table

    with reported(debug):
        console = Console()
        if save is not None:
            draw(runs, save)
            console.print(str(save), markup=False, highlight=False, soft_wrap=True)
        console.print(table(runs))
        for picture in pictures(runs):
            console.print(picture, markup=False, highlight=False, soft_wrap=True)


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder written by isovi fit.")],
    debug: Debug = False,
) -> None:
    """Measure how well a run keeps distances, held-out spots first.

    Writes diagnosis.json and pictures of profile, certificate, ellipses and map into the folder.

    Example: [bold]isovi diagnose run[/bold]
    """
    from isovi.workflow import diagnose as workflow

    with reported(debug):
        quiet()
        console, found = Console(), workflow.diagnose(run)
        console.print(workflow.table(found))
        for line in (*workflow.certified(found), *workflow.pictures(run), str(run / "diagnosis.json")):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Store to write: .zarr.")],
    spatial_key: SpatialKey = "spatial",
    section_key: Annotated[str | None, typer.Option(help="Section in obs; stored one by one.")] = None,
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    min_counts: MinCounts = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier store.")] = False,
    debug: Debug = False,
) -> None:
    """Store a tissue so that isovi fit can train on it without holding it in memory.

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
            force=force,
        )
        wrote = (
            f"Packed {packed.n_obs} cells x {packed.n_vars} genes in {packed.n_sections} section(s) to {out}"
        )
        Console().print(wrote, markup=False, highlight=False, soft_wrap=True)


@app.command()
def place(
    run: Annotated[Path, typer.Argument(help="Folder written by isovi fit.")],
    query: Annotated[Path, typer.Option(help="Cells with raw counts. Never changed.")],
    out: Annotated[Path, typer.Option(help="File to write: .h5ad or .zarr.")],
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    debug: Debug = False,
) -> None:
    """Place cells without positions in the tissue of a run.

    Each gets a position and a radius, in the units of the run, that covers the truth for 90 % of
    cells like the reference, and a flag if it is unlike them.

    Example: [bold]isovi place run --query cells.h5ad --out placed.h5ad[/bold]
    """
    from isovi.workflow.place import PlaceOptions
    from isovi.workflow.place import place as run_place

    with reported(debug):
        quiet()
        run_place(PlaceOptions(run, query, out, seed, force, table, coordinate_system), Console())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder written by isovi fit.")],
    beside: Annotated[
        Path | None,
        typer.Option(help="Run with the same options and --plain, to compare with."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write report.html: a verdict in words, linked views of tissue and latent, curves.

    One file that needs no network, to open in a browser and to send to others. isovi fit writes it too.

    Example: [bold]isovi report run --beside plain_run[/bold]
    """
    from isovi.report.write import report as write

    with reported(debug):
        quiet()
        for line in (*write(run, beside).words(), f"Wrote {run / 'report.html'}"):
            Console().print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="File to write: .h5ad or .zarr.")],
    kind: Annotated[Kind, typer.Option(help="Kind of tissue.")] = Kind.layers,
    n_obs: Annotated[int, typer.Option(help="Spots, over all sections.")] = 1000,
    n_genes: Annotated[int, typer.Option(help="Genes.")] = 500,
    n_sections: Annotated[int, typer.Option(help="Sections.")] = 1,
    seed: Annotated[int, typer.Option(help="Of positions and counts.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    debug: Debug = False,
) -> None:
    """Write a tissue of known geometry with negative binomial counts.

    Example: [bold]isovi simulate --kind layers --out tissue.h5ad[/bold]
    """
    from isovi.data.io import write_atomic
    from isovi.simulate import simulate as draw

    with reported(debug):
        adata = draw(kind.value, n_obs, n_genes, n_sections, seed=seed)
        write_atomic(adata, out, force=force)
        wrote = f"Wrote {adata.n_obs} spots x {adata.n_vars} genes to {out}"
        Console().print(wrote, markup=False, highlight=False, soft_wrap=True)


@app.command()
def tune(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT)],
    out: Annotated[Path, typer.Option(help="Folder to write, whole or not at all.")],
    targets: Annotated[str, typer.Option(help="Relative distortions to try.")] = "0.1,0.2,0.3",
    n_latents: Annotated[str, typer.Option(help="Latent dimensions to try.")] = "10,20",
    pairs: Annotated[str, typer.Option(help="Pairs to try.")] = "all,all+knn:6",
    trials: Annotated[
        int | None,
        typer.Option(help=f"Try so many of them. {DEFAULT.format('all')}", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trials at once.")] = 1,
    spatial_key: SpatialKey = "spatial",
    section_key: SectionKey = None,
    batch_key: BatchKey = None,
    layer: Layer = None,
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    min_counts: MinCounts = 0,
    n_top_genes: TopGenes = 2000,
    holdout: Holdout = "0.2",
    max_epochs: MaxEpochs = None,
    seed: Annotated[int, typer.Option(help="Of split, training and choice.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier search.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
    debug: Debug = False,
) -> None:
    r"""Search target, latent size and pairs for a tissue, and show what can be had for what.

    Settings are compared on validation spots; the best are told on held-out spots, which took no
    part in the choice. Nothing is picked silently: a table, a picture and a fit command are given.

    Values stand with commas between. Needs Ray: pip install "isovi\[tune]".

    Example: [bold]isovi tune section.h5ad --out tuned --targets 0.15,0.2,0.3 --jobs 4[/bold]
    """
    from isovi.workflow import choice
    from isovi.workflow import tune as workflow
    from isovi.workflow.fit import FitOptions

    with reported(debug):
        quiet()
        console = Console()
        fit_options = FitOptions(
            file, out, spatial_key=spatial_key, section_key=section_key, batch_key=batch_key, layer=layer,
            n_top_genes=n_top_genes, holdout=holdout, max_epochs=max_epochs, seed=seed, force=force,
            resume=resume, table=table, coordinate_system=coordinate_system, coordinates=coordinates,
            min_counts=min_counts,
        )  # fmt: skip
        found = workflow.tune(
            workflow.TuneOptions(
                fit_options,
                workflow.values_of(targets, float, "--targets"),
                workflow.values_of(n_latents, int, "--n-latents"),
                workflow.values_of(pairs, str, "--pairs"),
                trials,
                jobs,
            ),
            console,
        )
        console.print(choice.table(found))
        for line in choice.words(found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
