"""Time and memory: ``isovi-bench time``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isovi.cli.console import DEFAULT, App, Debug, quiet, reported
from isovi.data import io
from isovi_bench.cli.options import say
from isovi_bench.rendering import around, insert

app = App(help="Measure time and memory of isoVI and of the benchmark.")

Section = Annotated[Path | None, typer.Option(help="A real section beside the simulated tissues: .h5ad.")]
Page = Annotated[Path | None, typer.Option(help="Also write tables into this page.")]
Rows = Annotated[Path | None, typer.Option(help="Also write all numbers: .json.")]


@app.command()
def epoch(
    section: Section = None,
    n_obs: Annotated[int, typer.Option(help="Spots of a simulated tissue.")] = 3600,
    epochs: Annotated[int, typer.Option(help="Timed epochs of each fit.")] = 2,
    repeats: Annotated[int, typer.Option(help="Fits of each kind.")] = 5,
    contender: Annotated[
        list[str] | None,
        typer.Option(help=f"default; equal; equal, plain. {DEFAULT.format('all')}", show_default=False),
    ] = None,
    whole: Annotated[int, typer.Option(help="Whole fits of the section.")] = 1,
    page: Page = None,
    out: Rows = None,
    debug: Debug = False,
) -> None:
    """Time an epoch of isoVI against one of scVI, as ratios, at three densities of counts.

    Contenders: default (both at their own defaults), equal (with scVI's network and training) and
    "equal, plain" (the same without speed-ups). The option may be repeated. Of a section the whole isovi
    fit is timed as well, against the training of scVI by its defaults, with the likelihood of held-out
    spots of both; each takes minutes. With --out an interrupted measurement can be resumed.

    Example: [bold]isovi-bench time epoch --repeats 3[/bold]
    """
    with reported(debug):
        from isovi_bench.resources import processor_name
        from isovi_bench.timings import epoch as timing
        from isovi_bench.timings import whole as fits
        from isovi_bench.timings.partial import unfinished

        quiet()
        _check(timing.PLACE, page)
        names = timing.chosen(contender or ())
        asked = {"section": section and str(section), "n_obs": n_obs, "epochs": epochs, "contenders": names}
        with unfinished(out, {**asked, "processor": processor_name()}) as kept:
            rows = timing.measure(section, n_obs, epochs, repeats, names, rows=kept)
            wholes = [] if section is None else fits.measure(section, whole, rows=kept)
            _write([*rows, *wholes], out)
        tables = [timing.table(rows), *([fits.table(wholes)] if wholes else [])]
        _tell("\n\n".join(tables), timing.PLACE, page)


@app.command()
def memory(
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    section: Section = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help=f"Cells. {DEFAULT.format('10000, 100000, 1000000')}", show_default=False),
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option(help=f"Kind of pairs. {DEFAULT.format('all')}", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Minibatches of a fit at most.")] = 1500,
    repeats: Annotated[int, typer.Option(help="Fits of each kind.")] = 1,
    debug: Debug = False,
) -> None:
    """Measure memory and speed of a fit, in memory and from a packed store.

    --size and --pairs may be repeated.

    Example: [bold]isovi-bench time memory --out memory --size 10000[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import memory as timing

        quiet()
        timing.measure(out, size or timing.SIZES, section, pairs or ("all",), steps, repeats)
        timing.draw(out, out / "memory.png")
        say(timing.table(out))


@app.command()
def command(
    out: Annotated[Path, typer.Option(help="Folder of the data, the runs and the results.")],
    size: Annotated[
        list[int] | None,
        typer.Option(help=f"Cells. {DEFAULT.format('10000, 100000, 1000000')}", show_default=False),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help=f"memory; disk, a packed store. {DEFAULT.format('both')}", show_default=False),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 3,
    page: Page = None,
    debug: Debug = False,
) -> None:
    """Measure time and memory of fit, diagnose and place by stage.

    Of simulated tissues, in memory and from a packed store.

    --size and --mode may be repeated. What is done already is not done again.

    Example: [bold]isovi-bench time command --out command --size 10000[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import command as timing

        quiet()
        _check(timing.PLACE, page)
        found = timing.measure(out, size or timing.SIZES, mode or tuple(timing.MODES), epochs)
        _tell(timing.table(found), timing.PLACE, page)


@app.command()
def reading(
    out: Annotated[Path, typer.Option(help="Folder for the inputs, which are removed again.")],
    size: Annotated[
        int | None, typer.Option(help="Cells or bins; by default 100,000 cells and 500,000 bins.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure memory and time of reading instrument folders.

    A Xenium and a Visium HD folder are made, and memory is compared with the size of their matrices.

    Example: [bold]isovi-bench time reading --out reading[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import reading as timing

        quiet()
        say(timing.table(timing.measure(out, n_obs=size)))


@app.command()
def geometry(
    size: Annotated[
        list[int] | None,
        typer.Option(help=f"Pairs or cells. {DEFAULT.format('100000, 1000000')}", show_default=False),
    ] = None,
    out: Rows = None,
    debug: Debug = False,
) -> None:
    """Time the distortion profile of many pairs and the Tissot ellipses of many cells.

    Example: [bold]isovi-bench time geometry --size 100000[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import geometry as timing

        rows = list(timing.measure(size or timing.SIZES))
        _write(rows, out)
        say(timing.table(rows))


@app.command()
def device(
    page: Page = None,
    seconds: Annotated[float, typer.Option(help="After which nothing more is begun.")] = 300.0,
    out: Rows = None,
    debug: Debug = False,
) -> None:
    """Time and memory of steps on the GPU against scVI.

    Without a GPU it is done in small on the processor.

    Example: [bold]isovi-bench time device --page docs/large.md[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import device as timing

        quiet()
        _check(timing.PLACE, page)
        found = timing.measure(seconds=seconds)
        _write(found, out)
        _tell(timing.page(found), timing.PLACE, page)


@app.command()
def report(
    pages: Annotated[list[Path], typer.Argument(metavar="PAGE...", help="Reports of runs: .html.")],
    debug: Debug = False,
) -> None:
    """Time how long a report takes to open in headless Chromium.

    Example: [bold]isovi-bench time report run/report.html[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import report as timing

        for page in pages:
            found = timing.measure(page)
            times = f"open after {found.wall:.2f} s, {found.work:.2f} s of processor time"
            say(f"{page}: {times}, {found.megabytes:.2f} MB")


@app.command()
def workers(
    jobs: Annotated[int, typer.Option(help="Number of jobs; with --fits a multiple of 4.")] = 12,
    seconds: Annotated[float, typer.Option(help="How long each job sleeps.")] = 15.0,
    fits: Annotated[bool, typer.Option("--fits", help="Train models instead of sleeping.")] = False,
    debug: Debug = False,
) -> None:
    """Time a comparison with two workers against the same with one.

    Example: [bold]isovi-bench time workers --fits[/bold]
    """
    with reported(debug):
        from isovi_bench.timings import workers as timing

        quiet()
        one, two = timing.measure(jobs, 0.0 if fits else seconds)
        for found in (one, two):
            times = f"{jobs} jobs in {found.jobs:.1f} s, started in {found.start:.1f} s"
            say(f"{found.workers} worker(s): {times}")
        whole = (two.start + two.jobs) / (one.start + one.jobs)
        say(f"Ratio {two.jobs / one.jobs:.3f}, with the start {whole:.3f}")


def _check(place: str, page: Path | None) -> None:
    """Refuse a page without the marked block of the tables, before anything is measured."""
    if page is not None:
        around(place, page)


def _tell(text: str, place: str, page: Path | None) -> None:
    say(text)
    if page is not None:
        insert(text, place, page)


def _write(rows: object, out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        io.write_json(out, rows)
