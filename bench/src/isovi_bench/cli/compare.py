"""Comparisons: ``isovi-bench run``, ``paper``, ``quick``, ``table``, ``plots`` and ``peers``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import DEFAULT, Console, Debug, quiet, reported
from isovi_bench.cli.options import Data, Grid, Out, Results, say, say_paths

PRESETS = Path(__file__).parents[1] / "presets"

Address = Annotated[str | None, typer.Option(help="Run on this Ray cluster instead of this machine.")]
Workers = Annotated[
    int | None, typer.Option(help=f"Jobs at once. {DEFAULT.format('one per CPU')}", show_default=False)
]
Gpus = Annotated[float, typer.Option(help="GPUs per job, also a share.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run failed jobs again.")]


def run_grid(
    grid: Grid,
    out: Out,
    data: Data = None,
    ray_address: Address = None,
    workers: Workers = None,
    gpus_per_job: Gpus = 0.0,
    retry_failed: Retry = False,
    debug: Debug = False,
) -> None:
    """Run the jobs of a grid that are not finished yet.

    results.parquet has a row for every metric. A job that fails is a row with the reason, and the exit status
    is then 1.


    Example: [bold]isovi-bench run grid.yaml --out results --workers 2[/bold]
    """
    _run(grid, out, data, ray_address, workers, gpus_per_job, retry_failed, debug)


def paper(
    out: Out,
    data: Data = None,
    ray_address: Address = None,
    workers: Workers = None,
    gpus_per_job: Gpus = 0.0,
    retry_failed: Retry = False,
    debug: Debug = False,
) -> None:
    """Run the paper's experiment: four Visium sections, with and without the distance term.

    Example: [bold]isovi-bench paper --out paper[/bold]
    """
    _run(PRESETS / "paper.yaml", out, data, ray_address, workers, gpus_per_job, retry_failed, debug)


def quick(
    out: Out,
    small: Annotated[bool, typer.Option("--small", help="Only check within a minute that it runs.")] = False,
    ray_address: Address = None,
    workers: Workers = None,
    gpus_per_job: Gpus = 0.0,
    retry_failed: Retry = False,
    debug: Debug = False,
) -> None:
    """Compare methods on simulated tissues, in about ten minutes.

    Example: [bold]isovi-bench quick --out quick[/bold]
    """
    grid = PRESETS / ("small.yaml" if small else "quick.yaml")
    _run(grid, out, None, ray_address, workers, gpus_per_job, retry_failed, debug)


def _run(
    grid: Path,
    out: Path,
    data: Path | None,
    ray_address: str | None,
    workers: int | None,
    gpus_per_job: float,
    retry_failed: bool,
    debug: bool,
) -> None:
    with reported(debug):
        from isovi_bench.runner import RunOptions, grids_of, run  # Ray takes seconds to import

        quiet()
        command = shlex.join(["isovi-bench", *sys.argv[1:]])
        failed = 0
        for one in grids_of(grid):
            options = RunOptions(one, out, data, ray_address, workers, gpus_per_job, retry_failed, command)
            failed += run(options, Console())["failed"]
        if failed:
            say("Rows of failed jobs give the reason; --retry-failed runs these jobs again")
            raise typer.Exit(1)


def reckon(
    grid: Grid,
    costs: Annotated[list[Path], typer.Option(help="Results with measured costs; may be repeated.")],
    data: Data = None,
    debug: Debug = False,
) -> None:
    """Reckon the processor hours of grids from costs that were measured.

    A method is reckoned by its median cost a spot, fewer epochs by their share; one that was not measured, as
    the dearest.

    Example: [bold]isovi-bench reckon grids --costs results[/bold]
    """
    with reported(debug):
        from isovi_bench.runner import reckoned

        quiet()
        say(reckoned(grid, costs, data))


def table(
    results: Results,
    page: Annotated[
        Path | None, typer.Option(help="Also write a page of documentation: .md.", dir_okay=False)
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="Folder of the run before, from which the page says the changes.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help=f"Method to compare with. {DEFAULT.format('plain backbone')}", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write tables of a comparison as Markdown, CSV and LaTeX; print the paper's Table 1.

    Example: [bold]isovi-bench table results --page docs/benchmarks.md[/bold]
    """
    from isovi_bench import page as pages
    from isovi_bench import tables

    with reported(debug):
        quiet()
        written = tables.write(results, results / "tables", against)
        for path in written:
            if path.name.startswith("table1_") and path.suffix == ".md":
                say(path.read_text(encoding="utf-8"))
        say_paths([*written, *([] if page is None else pages.write(results, page, since))])


def pages(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="PAGE...", help="Pages of documentation: .md.", exists=True, dir_okay=False),
    ],
    debug: Debug = False,
) -> None:
    """Write the tables of pages anew from the published results beside them.

    Pages say where by comments, [bold]<!-- table: NAME -->[/bold]; what changed is printed.

    Example: [bold]isovi-bench pages docs/quality.md docs/geometry.md[/bold]
    """
    from isovi_bench import excerpts

    with reported(debug):
        quiet()
        say_paths(excerpts.write(files))


def plots(results: Results, debug: Debug = False) -> None:
    """Plot a comparison: ellipses, errors, sensitivity, trade-off, ranks.

    Example: [bold]isovi-bench plots results[/bold]
    """
    from isovi_bench import plots as drawing

    with reported(debug):
        quiet()
        say_paths(drawing.write(results, results / "plots"))


def peers(
    install: Annotated[list[str] | None, typer.Option(help="Install this method; may be repeated.")] = None,
    debug: Debug = False,
) -> None:
    """List the published methods that run in environments of their own, or install some.

    Example: [bold]isovi-bench peers --install banksy[/bold]
    """
    from isovi_bench import peers as others

    with reported(debug):
        for name in install or ():
            others.install(name, say)
        for one in others.status():
            say(f"{one.peer.name} {one.version}: {one.message}")
