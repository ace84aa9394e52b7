"""Command line: parse arguments, call a public function, print the result."""

from __future__ import annotations

import typer

from isovi.cli import console, files, fit, place, runs

app = console.App(help="Distance-preserving generative models of spatial transcriptomics.", package="isovi")
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


@app.command(
    hidden=True,  # until 0.2
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench() -> None:
    """Say where the command went."""
    moved = "isovi bench is now isovi-bench: pip install isovi-bench"
    console.Console(stderr=True).print(moved, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


console.commands.append(app)


def main() -> None:
    """Run the command line."""
    console.run(app)
