"""Show and compare runs: ``isovi compare``, ``isovi diagnose`` and ``isovi report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import Console, Debug, quiet, reported
from isovi.cli.options import TrustPickle, path


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders written by isovi fit.", parser=path)],
    save: Annotated[
        Path | None, typer.Option(help="File for a plot of the latent spaces.", parser=path)
    ] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Compare runs of different data or splits.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print the metrics of several runs side by side, and where their plots are.

    The runs must be of the same data, split and genes: otherwise their metrics are of different spots.

    Example: [bold]isovi compare run plain_run --save latents.png[/bold]
    """
    from isovi import compare as comparison
    from isovi.cli.tables import metrics, metrics_beside
    from isovi.run import Run

    with reported(debug):
        console, found = Console(), [Run.read(run) for run in runs]
        table = comparison.compare(found, allow_different=allow_different)
        if save is not None:
            comparison.draw(found, save)
            console.print(str(save), markup=False, highlight=False, soft_wrap=True)
        distortions, beside = [comparison.distortion_of(run) for run in found], metrics_beside(console.width)
        for start in range(0, len(found), beside):
            shown = slice(start, start + beside)
            console.print(metrics(table.iloc[:, shown], distortions[shown]))
        for name, said in table.attrs["verdicts"].items():
            console.print(f"{name}: {said}", markup=False, highlight=False, soft_wrap=True)
        for plot in (plot for run in runs for plot in sorted((run / "figures").glob("*.png"))):
            console.print(str(plot), markup=False, highlight=False, soft_wrap=True)


def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder written by isovi fit.", parser=path)],
    format: Annotated[str, typer.Option(help="Format of the plots: png (300 dpi), svg or pdf.")] = "png",  # noqa: A002  # its option's name
    trust: TrustPickle = False,
    debug: Debug = False,
) -> None:
    """Measure how well a run preserves distances, held-out spots first.

    Writes diagnosis.json and plots of profile, certificate, ellipses and map to the folder of the run.

    Example: [bold]isovi diagnose run[/bold]
    """
    from isovi import diagnose as diagnosis
    from isovi.cli.tables import certified
    from isovi.cli.tables import diagnosis as table

    with reported(debug):
        quiet()
        console, found = Console(), diagnosis.diagnose(run, trust=trust, format=format)
        console.print(table(found))
        names = (f"{name}.{format}" for name in diagnosis.PLOTS)
        plots = (plot for name in names for plot in sorted((run / "figures").glob(name)))
        for line in (*certified(found), *map(str, plots), str(run / "diagnosis.json")):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder written by isovi fit.", parser=path)],
    beside: Annotated[
        Path | None,
        typer.Option(help="Run with the same options and --plain, for comparison.", parser=path),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write report.html: a verdict in words, linked views, metrics and plots.

    A single file that needs no network and can be sent to others. isovi fit writes it too.

    Example: [bold]isovi report run --beside plain_run[/bold]
    """
    from isovi.report.write import report as write

    with reported(debug):
        quiet()
        for line in (*write(run, beside).words(), f"Wrote {run / 'report.html'}"):
            Console().print(line, markup=False, highlight=False, soft_wrap=True)
