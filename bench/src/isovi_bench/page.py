"""A page of documentation written from the results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from isovi_bench import findings, plots, progress, results, tables, tasks

TEMPLATE = "benchmarks.md.jinja"
RUN = "run.json"
PLOTS = Path("_static") / "benchmarks"  # relative to the page

_SECTIONS_SHOWN = 3  # data sets whose ellipses are on the page


def write(results_dir: Path | str, page: Path | str) -> list[Path]:
    """Write the page, its plots, and the results that it is made from.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``.
    page
        Markdown file to write; plots and ``results.parquet`` go to ``_static/benchmarks`` beside it.

    Returns
    -------
    The page, the plots and the results.

    Raises
    ------
    InputError
        If there are no results.
    """
    folder, page = Path(results_dir), Path(page)
    results.read(folder)  # before anything is drawn
    shown = _few(plots.write(folder, page.parent / PLOTS))
    page.write_text(render(folder, page, [path.name for path in shown]), encoding="utf-8")
    published = page.parent / PLOTS / results.FILE
    shutil.copyfile(folder / results.FILE, published)
    return [page, *shown, published]


def _few(paths: list[Path]) -> list[Path]:
    """Without the ellipses of all but the first data sets, whose files are removed."""
    ellipses = [path for path in paths if path.name.startswith("ellipses_")]
    datasets = sorted({path.stem.rpartition("_")[0] for path in ellipses})[:_SECTIONS_SHOWN]
    dropped = [path for path in ellipses if path.stem.rpartition("_")[0] not in datasets]
    for path in dropped:
        path.unlink()
    return [path for path in paths if path not in dropped]


def render(results_dir: Path, page: Path, names: list[str]) -> str:
    """The page as Markdown.

    Parameters
    ----------
    results_dir
        Folder of the results.
    page
        Where it will be.
    names
        Of the files of plots.
    """
    frame = results.read(results_dir)
    plan = results.read_plan(results_dir, frame)
    text = template(TEMPLATE).render(
        tables=tables.every(frame, plan),
        findings=findings.findings(frame, plan),
        answers=tasks.sentences(results.measured(frame)),
        states=progress.count(progress.jobs(frame, plan)),
        plots=names,
        folder=PLOTS.as_posix(),
        outdated=tables.outdated(frame),
        run_command=run_command(results_dir),
        table_command=f"isovi-bench table {results_dir.name} --page {page.parent.name}/{page.name}",
    )
    return re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n"


def run_command(results_dir: Path) -> str:
    """The command that made the results, as the run noted it."""
    file = results_dir / RUN
    noted: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return str(noted.get("command") or f"isovi-bench run GRID.yaml --out {results_dir.name}")


def template(name: str) -> Template:
    """A template of Markdown, in which nothing is escaped as HTML."""
    environment = Environment(
        loader=PackageLoader("isovi_bench"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(name)
