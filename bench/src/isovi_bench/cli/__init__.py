"""The command line: parse, call, print."""

from __future__ import annotations

from isovi.cli import console
from isovi_bench.cli import compare, studies, timings

app = console.App(
    help="Compare methods for spatial transcriptomics on the same spots, genes and splits.",
    package="isovi-bench",
)
app.command("run")(compare.run_grid)
for verb in (
    compare.paper,
    compare.quick,
    compare.reckon,
    compare.table,
    compare.pages,
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
