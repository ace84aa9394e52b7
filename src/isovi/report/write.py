"""Write the report of a run."""

from __future__ import annotations

import gc
from dataclasses import asdict
from pathlib import Path

from isovi.data import io
from isovi.report.render import html
from isovi.report.summarise import Report, summarise
from isovi.run import Run


def report(folder: str | Path, beside: str | Path | None = None) -> Report:
    """Write ``report.html`` and ``report.json`` into the folder of a run.

    Parameters
    ----------
    folder
        Written by ``isovi fit``; its other files are not changed.
    beside
        Folder of the plain backbone on the same split of the same file, whose metrics are shown beside those
        of the run.

    Returns
    -------
    What was written: ``report.json`` holds its ``summary``, ``report.html`` all of it, in one file that needs
    no network.

    Raises
    ------
    InputError
        If a folder holds no complete run, or the two runs held out different spots.
    """
    run, plain = Run.read(folder), None if beside is None else Run.read(beside)
    run.require_complete()
    with io.exclusive(folder):
        found = summarise(run, plain)
        page = html(found)
        with io.replacing(Path(folder) / "report.html") as file:
            file.write_text(page, encoding="utf-8")
        io.write_json(Path(folder) / "report.json", asdict(found.summary))
    return found


def attempt(folder: Path) -> str:
    """Write the report of a run that has just ended, and say so, or why not: the run stays as it is."""
    gc.collect()  # of many cells, what the training and its data leave in circles would be kept beside it
    try:
        report(folder)
    except Exception as error:  # noqa: BLE001  # whatever it is, hours of training end well
        return f"The report was not written ({error}). The run is kept: try isovi report {folder}"
    return f"Wrote {Path(folder) / 'report.html'}"
