"""Train models: ``isovi fit`` and ``isovi tune``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isovi import interrupts
from isovi.cli.console import DEFAULT, CommandProgress, Console, Debug, quiet, reported, typed
from isovi.cli.options import (
    INPUT,
    INPUTS,
    MODEL,
    SEARCH,
    TRAINING,
    BatchKey,
    Coordinates,
    CoordinateSystem,
    Holdout,
    KeepControls,
    Layer,
    MaxEpochs,
    MinCounts,
    RoundCounts,
    SectionKey,
    SpatialKey,
    Table,
    TopGenes,
    fit_command,
    path,
    settings_of,
    values_of,
)

if TYPE_CHECKING:
    from isovi.model.objective import Distortion


class Backbone(StrEnum):
    """Backbone of the model."""

    scvi = "scvi"
    vae = "vae"


def fit(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT, parser=path)],
    out: Annotated[Path, typer.Option(help="Output folder, written as a whole.", parser=path)],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    debug: Debug = False,
    backbone: Annotated[
        Backbone, typer.Option(help="scVI, or a Gaussian VAE.", rich_help_panel=MODEL)
    ] = Backbone.scvi,
    distortion_target: Annotated[
        float | None,
        typer.Option(
            help=f"Target of the relative distortion. {DEFAULT.format('0.2')}",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    penalty: Annotated[
        float | None,
        typer.Option(help="Fixed weight of the distortion instead of a target.", rich_help_panel=MODEL),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Omit the distance term.", rich_help_panel=MODEL)
    ] = False,
    n_place: Annotated[
        int, typer.Option(help="Latent dimensions for distances; 0 for all.", rich_help_panel=MODEL)
    ] = 3,
    pairs: Annotated[
        str,
        typer.Option(help="Pairs whose distances count, see above.", rich_help_panel=MODEL),
    ] = "all",
    n_latent: Annotated[int, typer.Option(help="Number of latent dimensions.", rich_help_panel=MODEL)] = 10,
    spatial_key: SpatialKey = "spatial",
    section_key: SectionKey = None,
    batch_key: BatchKey = None,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with reference labels.", rich_help_panel=INPUTS)
    ] = None,
    layer: Layer = None,
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    min_counts: MinCounts = 0,
    keep_controls: KeepControls = False,
    round_counts: RoundCounts = False,
    n_top_genes: TopGenes = 2000,
    holdout: Holdout = "0.1",
    max_epochs: MaxEpochs = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of split, training, metrics.", rich_help_panel=TRAINING)
    ] = 0,
    devices: Annotated[
        int, typer.Option(help="GPUs (or processes) per machine.", rich_help_panel=TRAINING)
    ] = 1,
    nodes: Annotated[int, typer.Option(help="Number of machines.", rich_help_panel=TRAINING)] = 1,
) -> None:
    """Fit a distance-preserving model; write latent space, domains, metrics and report.

    Held-out spots are not used for training, early stopping or the choice of genes. Lengths are in
    spacings, the median distance to the nearest neighbour.

    Pairs: all, knn:6, radius:2.5, delaunay, gaussian:2, domain:KEY, obsp:KEY, or several joined by +.

    Example: [bold]isovi fit section.h5ad --out run --holdout 0.25[/bold]
    """
    options = locals()
    from isovi import files
    from isovi.data.io import Source
    from isovi.graph import parse_pairs
    from isovi.report.write import attempt

    with reported(debug):
        quiet()
        distortion = distortion_of(distortion_target, penalty, plain, n_place)
        settings = settings_of(
            options, backbone=backbone.value, distortion=distortion, pairs=parse_pairs(pairs)
        )
        source, progress = Source(file, table, coordinate_system, coordinates), CommandProgress(Console())
        resume = resume or interrupts.is_restarted()
        asked: dict[str, Any] = {"min_counts": min_counts, "force": force, "resume": resume}
        fitted = files.fit(source, out, settings, call=typed(), progress=progress, **asked) is not None
        if fitted:  # in the first of several processes; the run itself is not kept beside its report
            kept = f"The run is complete but for its report: isovi report {shlex.quote(str(out))}"
            with interrupts.kept_at(kept):
                progress.say(attempt(out))


def distortion_of(target: float | None, penalty: float | None, plain: bool, n_place: int) -> Distortion:
    """The distortion of three options of which at most one may be given.

    Parameters
    ----------
    target
        Tolerated relative distortion of a constraint.
    penalty
        Weight of a penalty.
    plain
        The same network and training without the term.
    n_place
        Number of latent dimensions whose distances count.

    Raises
    ------
    InputError
        If more than one is given, or a number is out of range.
    """
    from isovi.errors import InputError
    from isovi.model.objective import Constraint, Penalty

    if (target is not None) + (penalty is not None) + plain > 1:
        raise InputError(
            "More than one of --distortion-target, --penalty and --plain was given.",
            "They exclude each other.",
            f"Give one of them, or none for a target of {Constraint().target:g}.",
        )
    if plain:
        return Penalty(0.0)
    if penalty is not None:
        return Penalty(penalty, n_place=n_place)
    return Constraint(Constraint.target if target is None else target, n_place=n_place)


SEARCHING = ("jobs", "gpus_per_trial", "ray_address", "min_counts", "force", "resume")  # passed as they are


def tune(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help=INPUT, parser=path)],
    out: Annotated[Path, typer.Option(help="Output folder, written as a whole.", parser=path)],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing search.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted search.")] = False,
    debug: Debug = False,
    targets: Annotated[
        str, typer.Option(help="Distortion targets to try.", rich_help_panel=SEARCH)
    ] = "0.1,0.2,0.3",
    n_latents: Annotated[
        str, typer.Option(help="Numbers of latent dimensions.", rich_help_panel=SEARCH)
    ] = "10,20",
    pairs: Annotated[
        str, typer.Option(help="Kinds of pairs to try.", rich_help_panel=SEARCH)
    ] = "all,all+knn:6",
    trials: Annotated[
        int | None,
        typer.Option(
            help=f"Number of random combinations. {DEFAULT.format('all')}",
            show_default=False,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Number of parallel trials.", rich_help_panel=SEARCH)] = 1,
    gpus_per_trial: Annotated[
        float, typer.Option(help="Share of a GPU for each trial, such as 0.5.", rich_help_panel=SEARCH)
    ] = 0.0,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Run on this Ray cluster instead of this machine.", rich_help_panel=SEARCH),
    ] = None,
    spatial_key: SpatialKey = "spatial",
    section_key: SectionKey = None,
    batch_key: BatchKey = None,
    layer: Layer = None,
    table: Table = None,
    coordinate_system: CoordinateSystem = None,
    coordinates: Coordinates = None,
    min_counts: MinCounts = 0,
    keep_controls: KeepControls = False,
    round_counts: RoundCounts = False,
    n_top_genes: TopGenes = 2000,
    holdout: Holdout = "0.2",
    max_epochs: MaxEpochs = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of split and training.", rich_help_panel=TRAINING)
    ] = 0,
) -> None:
    r"""Search over target, latent size and pairs, and show the trade-off.

    Settings are selected on validation spots and reported on held-out spots, which are not used for
    the selection. Prints a table and the fit command of the recommended setting, and writes a plot.

    Separate values with commas. Requires Ray: pip install "isovi\[tune]".

    Example: [bold]isovi tune section.h5ad --out tuned --targets 0.15,0.2,0.3 --jobs 4[/bold]
    """
    resume = resume or interrupts.is_restarted()
    options = locals()
    from isovi.cli import tables
    from isovi.data.io import Source
    from isovi.graph import AllPairs, parse_pairs
    from isovi.tune import tune as search

    with reported(debug):
        quiet()
        console, source = Console(), Source(file, table, coordinate_system, coordinates)
        found = search(
            source,
            out,
            settings_of(options, pairs=AllPairs()),
            targets=values_of(targets, float, "--targets"),
            n_latents=values_of(n_latents, int, "--n-latents"),
            pairs=values_of(pairs, parse_pairs, "--pairs"),
            n_trials=trials,
            **{name: options[name] for name in SEARCHING},
            call=typed(),
            progress=CommandProgress(console),
        )
        console.print(tables.tuned(found))
        given = {**source.options, **({"min_counts": min_counts} if min_counts else {})}
        changed = found.recommended.changed() | {"distortion_target": found.recommended.target}
        changed.pop("distortion", None)
        for line in (*tables.choice(found), fit_command(file, {**given, **changed})):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
