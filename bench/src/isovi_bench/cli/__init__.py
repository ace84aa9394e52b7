"""The command line: parse, call, print."""

from __future__ import annotations

import typer

from isovi.cli import console
from isovi_bench.cli import compare, studies, timings

app = typer.Typer(
    help="Compare methods for spatial transcriptomics on the same spots, genes and splits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
app.command("run")(compare.run_grid)
for verb in (
    compare.paper,
    compare.quick,
    compare.table,
    compare.plots,
    compare.peers,
    studies.coverage,
    studies.domains,
    studies.neighbors,
    studies.placement,
    studies.theorem,
    studies.transfer,
):
    app.command()(verb)


app.add_typer(timings.app, name="time")


def main() -> None:
    """Run the command line."""
    console.run(app)
