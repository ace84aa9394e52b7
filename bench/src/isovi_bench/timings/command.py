"""Time and memory of whole commands by stage: fit, diagnose and place, in memory and from a packed store.

Every command is a process of its own. Time and largest resident memory of a stage are those of the functions
named in :data:`STAGES`, without those of stages called from them.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import anndata
import numpy as np
import pandas as pd
import torch

import isovi.data.pack
from isovi import files
from isovi.errors import InputError
from isovi.run import Settings
from isovi_bench.rendering import markdown
from isovi_bench.resources import in_fresh_process, peak_memory, reset_peak_memory
from isovi_bench.rows import Rows
from isovi_bench.timings.cells import positions, write
from isovi_bench.timings.partial import counted

SIZES = (10_000, 100_000, 1_000_000)
MODES = {"memory": ".h5ad", "disk": ".zarr"}
N_GENES = 500
N_PLACED = 100_000  # cells placed, at most
EPOCHS = 3
RESULTS = "results.jsonl"
PLACE = "commands"  # name of the marked block of a page that holds the tables
STAGES = {
    "reading": ("isovi.files:read", "isovi.files.io:digest", "isovi.run.Run:read", "isovi.files.io:read"),
    "checks": (
        "isovi.files:as_written",
        "isovi.files:content_hash",
        "isovi.files:check_query",
        "isovi.pipeline:check_data",
    ),
    "genes": ("isovi.pipeline:choose_genes", "isovi.pipeline.pack:take_genes"),
    "training": ("isovi.pipeline:train",),
    "encoding": ("isovi.model.model.IsoSCVI:get_latent_representation",),
    "domains": ("isovi.pipeline:find_domains",),
    "metrics": ("isovi.pipeline:evaluate", "isovi.pipeline:certified"),
    "geometry": ("isovi.diagnose:_measured",),
    "placing": (
        "isovi.tl.SpatialPlacer:fit",
        "isovi.tl.SpatialPlacer:place",
        "isovi.files:placement_metrics",
    ),
    "writing": ("isovi.run.Run:write_into", "isovi.run.Run:rewrite", "isovi.files.io:write_atomic"),
    "plots": ("isovi.diagnose:_draw",),
    "report": ("isovi.report.write:report",),
}


def measure(
    out: Path,
    sizes: Sequence[int] = SIZES,
    modes: Sequence[str] = tuple(MODES),
    epochs: int = EPOCHS,
) -> list[dict[str, Any]]:
    """Run the commands that are not in the results yet.

    Parameters
    ----------
    out
        Folder for the data, the runs and the results.
    sizes
        Cells of the simulated tissues.
    modes
        Keys of :data:`MODES`.
    epochs
        Epochs of training.

    Returns
    -------
    A row for each stage of each command.

    Raises
    ------
    InputError
        If a mode is not known.
    """
    if unknown := sorted(set(modes) - set(MODES)):
        raise InputError(f"modes={', '.join(unknown)}.", f"They are {', '.join(MODES)}.", "Name one of them.")
    rows = Rows(out / RESULTS)
    done = {(row["n_obs"], row["mode"], row["command"]) for row in rows.read()}
    asked = itertools.product(sizes, (mode for mode in MODES if mode in modes), COMMANDS)
    for n_obs, mode, command in counted([one for one in asked if one not in done], "Commands"):
        file = _prepared(out / f"{n_obs}.h5ad", n_obs).with_suffix(MODES[mode])
        found = in_fresh_process(run, command, file, out / f"{n_obs}-{mode}", epochs)
        about = {"n_obs": n_obs, "mode": mode, "command": command}
        rows.add([{**about, **row} for row in found])
    return rows.read()


def _prepared(file: Path, n_obs: int) -> Path:
    """The counts as .h5ad, as a packed store, and those that are placed, where they are missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write(file, positions(n_obs, np.random.default_rng(0)), N_GENES)
    if not file.with_suffix(".zarr").exists():
        isovi.data.pack.pack(file, file.with_suffix(".zarr"))
    query = _query(file)
    if not query.exists():
        anndata.io.read_h5ad(file)[:N_PLACED].copy().write_h5ad(query)
    return file


def _query(file: Path) -> Path:
    return file.with_name(f"{file.stem}-query.h5ad")


def run(command: str, file: Path, out: Path, epochs: int) -> list[dict[str, Any]]:
    """One command in this process: a row for each of its stages."""
    torch.set_num_threads(1)
    stages = Stages()
    with stages.timed():
        COMMANDS[command](file, out, epochs)
    return stages.rows()


def _fit(file: Path, out: Path, epochs: int) -> None:
    from isovi.report.write import attempt

    files.fit(file, out, Settings(max_epochs=epochs), force=True)
    attempt(out)


def _diagnose(_file: Path, out: Path, _epochs: int) -> None:
    from isovi.diagnose import diagnose

    diagnose(out)


def _place(file: Path, out: Path, _epochs: int) -> None:
    placed = out.with_name(f"{out.name}-placed.h5ad")
    files.place(out, _query(file), placed, force=True)


COMMANDS: dict[str, Callable[[Path, Path, int], None]] = {
    "fit": _fit,
    "diagnose": _diagnose,
    "place": _place,
}


class Stages:
    """Time and memory by stage while :meth:`timed` runs; what is in no stage is called "other"."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.seconds: Counter[str] = Counter()
        self.cpu_seconds: Counter[str] = Counter()
        self.peak_mb: dict[str, float] = {}

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time the functions of :data:`STAGES` that are called in the block."""
        with ExitStack() as patches:
            for stage, names in STAGES.items():
                for name in names:
                    owner, attribute = _found(name)
                    replaced = self._wrapped(stage, inspect.getattr_static(owner, attribute))
                    patches.enter_context(mock.patch.object(owner, attribute, replaced))
            with self._of("other"):
                yield

    def rows(self) -> list[dict[str, Any]]:
        """A row for each stage, in the order in which they began."""
        return [
            {
                "stage": stage,
                "seconds": round(self.seconds[stage], 2),
                "cpu_seconds": round(self.cpu_seconds[stage], 2),
                "peak_mb": round(peak),
            }
            for stage, peak in self.peak_mb.items()
        ]

    def _wrapped(self, stage: str, function: Any) -> Any:
        if isinstance(function, classmethod):
            return classmethod(self._wrapped(stage, function.__func__))

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._of(stage):
                return function(*args, **kwargs)

        return wrapped

    @contextmanager
    def _of(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage, and not for the one that it is called from."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._note_peak()
        self.stack.append(stage)
        self.peak_mb.setdefault(stage, 0.0)
        try:
            yield
        finally:
            self._note_peak()
            self.stack.pop()
            took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            for name, value in took.items():
                getattr(self, name)[stage] += value
                if self.stack:
                    getattr(self, name)[self.stack[-1]] -= value

    def _note_peak(self) -> None:
        """The largest memory since the last look is that of the stage that was at work."""
        if self.stack:
            self.peak_mb[self.stack[-1]] = max(self.peak_mb[self.stack[-1]], peak_memory())
        reset_peak_memory()


def _found(name: str) -> tuple[Any, str]:
    """The module or class that a function is looked up in, and its name there."""
    path, attribute = name.split(":")
    module, *rest = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in rest:
        inner = getattr(owner, part, None)
        owner = inner if inner is not None else importlib.import_module(f"{owner.__name__}.{part}")
    return owner, attribute


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: seconds and largest memory by stage and number of cells, and of whole commands.

    A slope is that of the logarithm of the seconds against that of the cells, from one number of cells to the
    next: 1 where time is proportional to their number.
    """
    frame = pd.DataFrame(rows).rename(columns={"cpu_seconds": "s", "peak_mb": "MB"})
    of = ["mode", "command", "stage"]
    by_command = frame.groupby([*of[:2], "n_obs"], sort=False).agg({"s": "sum", "MB": "max"})
    whole = by_command.reset_index().assign(stage="all")
    shown = pd.concat([frame, whole]).pivot_table(index=of, columns="n_obs", values=["s", "MB"], sort=False)
    seconds = shown["s"].sort_index(axis=1)
    named = {f"{n:,} cells, s": seconds[n] for n in seconds}
    for small, large in pairwise(seconds.columns):
        named[f"slope to {large:,}"] = (
            np.log(seconds[large] / seconds[small]) / np.log(large / small)
        ).round(2)
    largest = shown["MB"].sort_index(axis=1)
    named |= {f"{n:,} cells, MB": largest[n] for n in largest}
    cells = pd.DataFrame(named).map(lambda value: "-" if np.isnan(value) else f"{value:.4g}")
    return markdown(cells.reset_index())
