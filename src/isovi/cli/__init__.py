"""The command line: parse, call, print."""

from __future__ import annotations

import typer

from isovi.cli import bench, console, files, fit, place, runs

app = typer.Typer(
    help="Distance-preserving generative models of spatial transcriptomics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
for verb in (
    fit.fit,
    files.inspect,
    runs.compare,
    runs.diagnose,
    files.pack,
    place.place,
    runs.report,
    files.simulate,
    fit.tune,
):
    app.command()(verb)
app.add_typer(bench.app, name="bench")
console.commands.append(app)


def main() -> None:
    """Run the command line."""
    app()
