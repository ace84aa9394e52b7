"""A page of documentation written from the results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from isovi_bench import findings, plots, progress, results, since, tables, tasks
from isovi_bench.rendering import Table

TEMPLATE = "benchmarks.md.jinja"
TASK_TEMPLATE = "task.md.jinja"
RUN = "run.json"
PLOTS = Path("_static") / "benchmarks"  # relative to the page
BEFORE = "before.parquet"  # beside the published results: those of the run before

_SECTIONS_SHOWN = 3  # data sets whose ellipses are on the page


def write(results_dir: Path | str, page: Path | str, earlier: Path | None = None) -> list[Path]:
    """Write the page, one for each task, plots, and the results that they are made from.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``.
    page
        Markdown file to write; the pages of tasks go to a folder of its name, plots and ``results.parquet``
        to ``_static/benchmarks`` beside it.
    earlier
        Folder of the run before. Its results are kept beside the published ones, and the page says what has
        changed since. By default those that are kept there already, if any.

    Returns
    -------
    The page, the pages of tasks, the plots and the results.

    Raises
    ------
    InputError
        If there are no results.
    """
    folder, page = Path(results_dir), Path(page)
    results.read(folder)  # before anything is drawn
    known = None if earlier is None else results.read(earlier)
    before, published = (page.parent / PLOTS / name for name in (BEFORE, results.FILE))
    before.parent.mkdir(parents=True, exist_ok=True)
    if known is not None:
        known.to_parquet(before, index=False)
    shown = _few(plots.write(folder, page.parent / PLOTS))
    texts = render(folder, page, [path.name for path in shown], before)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copyfile(folder / results.FILE, published)
    return [*texts, *shown, published]


def _few(paths: list[Path]) -> list[Path]:
    """Without the ellipses of all but the first data sets, whose files are removed."""
    ellipses = [path for path in paths if path.name.startswith("ellipses_")]
    datasets = sorted({path.stem.rpartition("_")[0] for path in ellipses})[:_SECTIONS_SHOWN]
    dropped = [path for path in ellipses if path.stem.rpartition("_")[0] not in datasets]
    for path in dropped:
        path.unlink()
    return [path for path in paths if path not in dropped]


def render(results_dir: Path, page: Path, names: list[str], before: Path) -> dict[Path, str]:
    """The pages as Markdown, the one that names the others first.

    Parameters
    ----------
    results_dir
        Folder of the results.
    page
        Where the first will be.
    names
        Of the files of plots.
    before
        Results of the run before; it need not be there.
    """
    frame = results.read(results_dir)
    plan = results.read_plan(results_dir, frame)
    found = results.measured(frame)
    command = f"isovi-bench table {results_dir.name} --page {page.parent.name}/{page.name}"
    ran = {task: made for task in tasks.TASKS if (made := tasks.of_task(task, found))}
    first = template(TEMPLATE).render(
        tables=[*tables.every(frame, plan), *_since(found, before)],
        findings=findings.findings(frame, plan),
        answers=[(task, task in ran, tasks.sentence(task, found)) for task in tasks.TASKS],
        states=progress.count(progress.jobs(frame, plan)),
        plots=names,
        folder=PLOTS.as_posix(),
        pages=page.stem,
        outdated=tables.outdated(frame),
        run_command=run_command(results_dir),
        table_command=command,
    )
    shown = {
        page.with_suffix("") / f"{task.name}.md": _of_task(task, made, found, command)
        for task, made in ran.items()
    }
    return {page: _tidy(first), **shown}


def _of_task(task: tasks.Task, made: list[Table], found: pd.DataFrame, command: str) -> str:
    text = template(TASK_TEMPLATE).render(
        task=task,
        answer=tasks.sentence(task, found),
        apart=tasks.sentence(task, found, apart=True),
        tables=made,
        folder=f"../{PLOTS.as_posix()}",
        table_command=command,
        not_run=tasks.NOT_RUN,
    )
    return _tidy(text)


def _since(found: pd.DataFrame, before: Path) -> list[Table]:
    """What has changed since the run before, if its results are there."""
    if not before.is_file():
        return []
    return since.tables(found, results.measured(results.conform(pd.read_parquet(before))))


def _tidy(text: str) -> str:
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
