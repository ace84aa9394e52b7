"""Studies: ``theorem``, ``placement``, ``transfer``, ``neighbors``, ``coverage`` and ``domains``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import DEFAULT, Debug, quiet, reported
from isovi_bench.cli.options import Data, Grid, Out, Results, say, say_paths

Novosparc = Annotated[Path | None, typer.Option(help="Python interpreter that has novoSpaRc.")]


def theorem(
    results: Results,
    page: Annotated[Path, typer.Option(help="Page to write: .md.", dir_okay=False)],
    debug: Debug = False,
) -> None:
    """Compare L with the distortion loss over a range of targets, and write a page.

    Example: [bold]isovi-bench theorem theorem --page docs/theorem.md[/bold]
    """
    with reported(debug):
        from isovi_bench.studies import theorem as study

        quiet()
        say_paths(study.write(results, page))


def neighbors(results: Results, debug: Debug = False) -> None:
    """Print held-out metrics with the distortion between neighbouring spots.

    Example: [bold]isovi-bench neighbors minibatches[/bold]
    """
    with reported(debug):
        from isovi_bench.studies import neighbors as study

        quiet()
        say(study.report(study.measure(results)))


def placement(
    grid: Grid,
    out: Out,
    data: Data = None,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Only place with isoVI.")] = False,
    novosparc: Novosparc = None,
    debug: Debug = False,
) -> None:
    """Place the held-out spots of a comparison that has run, and print errors and coverage.

    Example: [bold]isovi-bench placement grid.yaml --out results[/bold]
    """
    with reported(debug):
        from isovi_bench.runner import RunOptions
        from isovi_bench.studies import placement as study

        quiet()
        rows = study.measure(RunOptions(grid, out, data), baselines=not no_baselines, novosparc=novosparc)
        say(study.report(rows))


def transfer(
    pairs: Annotated[list[str], typer.Argument(metavar="REFERENCE:QUERY...", help="Names of .h5ad files.")],
    data: Annotated[Path, typer.Option(help="Folder of the files.")],
    out: Annotated[Path, typer.Option(help="File of the rows: .jsonl.")],
    seed: Annotated[
        list[int] | None,
        typer.Option(help=f"Random seed; may be repeated. {DEFAULT.format('0')}", show_default=False),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(help=f"Epochs at most. {DEFAULT.format('by number of spots')}", show_default=False),
    ] = None,
    novosparc: Novosparc = None,
    debug: Debug = False,
) -> None:
    """Place the spots of a section with models of others.

    Join several references with +.

    Example: [bold]isovi-bench transfer d1+d2:d3 --data sections --out transfer.jsonl[/bold]
    """
    with reported(debug):
        from isovi_bench.studies import transfer as study

        quiet()
        say(study.report(study.measure(pairs, data, out, seed or (0,), max_epochs, novosparc)))


def coverage(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders written by isovi fit.")
    ] = None,
    splits: Annotated[int, typer.Option(help="Number of splits of the held-out cells.", min=1)] = 200,
    cells: Annotated[int, typer.Option(help="Held-out cells of each split.", min=58)] = 114,
    simulated: Annotated[int, typer.Option(help="Number of draws of simulated populations.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    debug: Debug = False,
) -> None:
    """Count how often certificates are wrong, in simulations and on real sections.

    Real sections are runs, some of whose held-out cells certify and the others are the truth.

    Example: [bold]isovi-bench coverage run other_run --simulated 2000[/bold]
    """
    with reported(debug):
        from isovi.run import Run
        from isovi_bench.studies import coverage as study

        quiet()
        if simulated:
            say(study.report(study.simulate(simulated, seed=seed)))
        if runs:
            found = [Run.read(run) for run in runs]
            say(study.report(study.measure(found, n_splits=splits, n_cells=cells, seed=seed)))


def domains(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="AnnData files with labels.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the labels.")],
    use_rep: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Latent representation; may be repeated. {DEFAULT.format('X_isovi')}", show_default=False
        ),
    ] = None,
    section_key: Annotated[str | None, typer.Option(help="Column of obs with the section.")] = None,
    debug: Debug = False,
) -> None:
    """Compare domains with labels, for each kind of smoothing and for coordinates alone.

    Example: [bold]isovi-bench domains run/adata.h5ad --label-key layer[/bold]
    """
    with reported(debug):
        from isovi_bench.studies import domains as study

        quiet()
        rows = study.measure(
            files, label_key=label_key, use_rep=use_rep or ["X_isovi"], section_key=section_key
        )
        say(study.report(rows))
