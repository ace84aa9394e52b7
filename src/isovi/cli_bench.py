"""The command line of comparisons: ``isovi bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from isovi.cli_console import DEFAULT, Debug, quiet, reported

app = typer.Typer(help="Methods x data sets x seeds: run, resume, tables, figures.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder of the results; jobs that are done in it are not repeated.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help=f"What paths of data sets are relative to. {DEFAULT.format('the grid')}", show_default=False
    ),
]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster, instead of this machine.")]
Workers = Annotated[
    int | None, typer.Option(help=f"Jobs at once. {DEFAULT.format('one per CPU')}", show_default=False)
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run jobs again that failed before.")]


@app.command("run")
def run_grid(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="Data sets, methods, seeds, splits: .yaml.")],
    out: Out,
    data: Data = None,
    ray_address: Address = None,
    workers: Workers = None,
    retry_failed: Retry = False,
    debug: Debug = False,
) -> None:
    """Run the jobs of a grid that are not done yet; results.parquet has a row for every figure.

    Example: [bold]isovi bench run grid.yaml --out results --workers 2[/bold]
    """
    _run(grid, out, data, ray_address, workers, retry_failed, debug)


@app.command()
def paper(
    out: Out,
    data: Data = None,
    ray_address: Address = None,
    workers: Workers = None,
    retry_failed: Retry = False,
    debug: Debug = False,
) -> None:
    """Run the paper's experiment: its four Visium sections, VAE and scVI with and without the term.

    Example: [bold]isovi bench paper --out paper[/bold]
    """
    _run(PRESETS / "paper.yaml", out, data, ray_address, workers, retry_failed, debug)


@app.command()
def quick(
    out: Out,
    small: Annotated[
        bool, typer.Option("--small", help="Tiny: shows within a minute that all works.")
    ] = False,
    ray_address: Address = None,
    workers: Workers = None,
    retry_failed: Retry = False,
    debug: Debug = False,
) -> None:
    """Compare methods on simulated tissues, in about ten minutes.

    Example: [bold]isovi bench quick --out quick[/bold]
    """
    grid = PRESETS / ("small.yaml" if small else "quick.yaml")
    _run(grid, out, None, ray_address, workers, retry_failed, debug)


PRESETS = Path(__file__).parent / "bench" / "presets"


def _run(
    grid: Path,
    out: Path,
    data: Path | None,
    ray_address: str | None,
    workers: int | None,
    retry_failed: bool,
    debug: bool,
) -> None:
    with reported(debug):
        from isovi.bench.runner import RunOptions, run  # needs the extra

        quiet()
        run(RunOptions(grid, out, data, ray_address, workers, retry_failed), Console())
