"""The command line: ``isovi-bench``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from isovi.cli.console import DEFAULT, Debug, quiet, reported

PRESETS = Path(__file__).parents[1] / "presets"

app = typer.Typer(
    help="Methods x data sets x seeds: run, resume, tables, figures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)

Out = Annotated[Path, typer.Option(help="Folder of the results; what is done is kept.")]
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
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder written by isovi-bench run.")]
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
    """Run the jobs of a grid that are not done yet.

    results.parquet has a row for every figure. A job that fails is a row that says why; the others go on, and
    the exit status is 1.

    Example: [bold]isovi-bench run grid.yaml --out results --workers 2[/bold]
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
    """Run the paper's experiment: its four Visium sections, with and without the term.

    Example: [bold]isovi-bench paper --out paper[/bold]
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

    Example: [bold]isovi-bench quick --out quick[/bold]
    """
    grid = PRESETS / ("small.yaml" if small else "quick.yaml")
    _run(grid, out, None, ray_address, workers, retry_failed, debug)


@app.command()
def table(
    results: Results,
    page: Annotated[Path | None, typer.Option(help="Page to write from the results: .md.")] = None,
    debug: Debug = False,
) -> None:
    """Write tables of a comparison as Markdown, CSV and LaTeX; print the paper's Table 1.

    Example: [bold]isovi-bench table results --page docs/benchmarks.md[/bold]
    """
    from isovi_bench import page as pages
    from isovi_bench import tables

    with reported(debug):
        quiet()
        written = tables.write(results, results / "tables")
        for path in written:
            if path.name.startswith("table1_") and path.suffix == ".md":
                _print(path.read_text(encoding="utf-8"))
        _print_paths([*written, *([] if page is None else pages.write(results, page))])


@app.command()
def figures(results: Results, debug: Debug = False) -> None:
    """Draw pictures of a comparison: ellipses, errors, sensitivity, trade-off, ranks.

    Example: [bold]isovi-bench figures results[/bold]
    """
    from isovi_bench import figures as pictures

    with reported(debug):
        quiet()
        _print_paths(pictures.write(results, results / "figures"))


@app.command()
def peers(
    install: Annotated[
        list[str] | None, typer.Option(help="Make the environment of a peer; may be given again.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the published methods that run in environments of their own, or install some.

    Example: [bold]isovi-bench peers --install banksy[/bold]
    """
    from isovi_bench import peers as others

    with reported(debug):
        for name in install or ():
            others.install(name, _print)
        for one in others.status():
            _print(f"{one.peer.name} {one.version}: {one.message}")


def _print(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _print_paths(paths: list[Path]) -> None:
    for path in paths:
        _print(str(path))


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
        from isovi_bench.runner import RunOptions, run  # needs the extra

        quiet()
        command = shlex.join(["isovi-bench", *sys.argv[1:]])
        counts = run(RunOptions(grid, out, data, ray_address, workers, retry_failed, command), Console())
        if counts["failed"]:
            raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    app()
