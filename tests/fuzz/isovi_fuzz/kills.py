"""Commands that are killed, at a change of a file or at any time, and run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.random import default_rng
from scipy import sparse

from isovi_fuzz.cases import FIT_SECONDS
from isovi_fuzz.fixtures import EPOCHS, FIT_RUN, TUNE, copy
from isovi_fuzz.oracle import Outcome, changes, half_written, judge, last_lines, latent, snapshot
from isovi_fuzz.process import call, command, command_counted, command_killed_at, isovi


def same_run(run: Path) -> Any:
    """What a run must repeat to the last bit."""
    metrics = json.loads((run / "metrics.json").read_text())
    return latent(run).tobytes(), metrics, sorted(path.name for path in run.rglob("*"))


def same_json(file: Path) -> Any:
    return json.loads(file.read_text())


def same_anndata(path: Path) -> Any:
    adata = anndata.io.read_zarr(path) if path.suffix == ".zarr" else anndata.io.read_h5ad(path)
    X = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    tables = {name: np.asarray(values).tobytes() for name, values in adata.obsm.items()}
    return X.tobytes(), tables, adata.obs.to_csv(), adata.var.to_csv()


def same_search(folder: Path) -> Any:
    table = pd.read_csv(folder / "tune.csv", index_col=0)
    return table[[name for name in table if "seconds" not in name]].to_csv()


def same_bytes(file: Path) -> Any:
    return file.read_bytes()


def nothing(_: Path) -> Any:
    return None


@dataclass(frozen=True)
class Killed:
    """A command that is killed and what must then be.

    Attributes
    ----------
    words
        The command.
    needs
        What it is run on; ``a=b`` is ``b`` under the name ``a``.
    result
        What it makes.
    same
        What of the result must be equal to the uninterrupted one's.
    again
        Words that are added when it is run again.
    """

    words: tuple[str, ...]
    needs: tuple[str, ...]
    result: str
    same: Callable[[Path], Any]
    again: tuple[str, ...] = ()


_FIT = ("--out", "run", *FIT_RUN, *EPOCHS)
COMMANDS = {
    "fit": Killed(("fit", "tissue.h5ad", *_FIT), ("tissue.h5ad",), "run", same_run, ("--resume",)),
    "fit --resume": Killed(
        ("fit", "tissue.h5ad", *_FIT, "--resume"),
        ("tissue.h5ad", "run.partial.ckpt=unfinished/run.partial.ckpt"),
        "run",
        same_run,
    ),
    "fit --force": Killed(
        ("fit", "tissue.h5ad", *_FIT, "--force"), ("tissue.h5ad", "run=plain"), "run", same_run
    ),
    "fit, packed": Killed(("fit", "packed.zarr", *_FIT), ("packed.zarr",), "run", same_run, ("--resume",)),
    "place": Killed(
        ("place", "run", "--query", "query.h5ad", "--out", "placed.h5ad"),
        ("run", "query.h5ad"),
        "placed.h5ad",
        same_anndata,
    ),
    "pack": Killed(
        ("pack", "tissue.h5ad", "new.zarr", "--section-key", "section"),
        ("tissue.h5ad",),
        "new.zarr",
        same_anndata,
    ),
    "pack --force": Killed(
        ("pack", "tissue.h5ad", "packed.zarr", "--section-key", "section", "--force"),
        ("tissue.h5ad", "packed.zarr"),
        "packed.zarr",
        same_anndata,
    ),
    "diagnose": Killed(("diagnose", "run"), ("run",), "run/diagnosis.json", same_json),
    "report": Killed(("report", "run", "--beside", "plain"), ("run", "plain"), "run/report.html", nothing),
    "compare": Killed(
        ("compare", "run", "plain", "--save", "plot.png"), ("run", "plain"), "plot.png", same_bytes
    ),
    "simulate": Killed(
        ("simulate", "--n-obs", "80", "--n-genes", "40", "--out", "new.h5ad"), (), "new.h5ad", same_anndata
    ),
    "inspect": Killed(("inspect", "tissue.zarr"), ("tissue.zarr",), "tissue.zarr", same_anndata),
    "tune": Killed(
        ("tune", "tissue.h5ad", "--out", "tuned", *TUNE),
        ("tissue.h5ad",),
        "tuned",
        same_search,
        ("--resume",),
    ),
}
KILLS = tuple(COMMANDS)  # in turn
_MAKING = Lock()  # of cases at once


def _copy_needs(one: Killed, base: Path, work: Path) -> None:
    work.mkdir(parents=True)
    for needed in one.needs:
        to, _, source = needed.partition("=")
        copy(base / (source or to), work / to)


def reference(name: str, base: Path) -> Path:
    """The command run to its end, once: ``work`` with its result, ``moments`` and ``seconds``."""
    folder, one = base / "uninterrupted" / name.replace(" ", "_"), COMMANDS[name]
    with _MAKING:
        return folder if (folder / "seconds").exists() else _make_reference(name, one, base, folder)


def _make_reference(name: str, one: Killed, base: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    work = folder / "work"
    _copy_needs(one, base, work)
    words = (str(folder / "moments"), str(work), *one.words)
    ended = call(command_counted, *words, folder=work, timeout=FIT_SECONDS)
    if ended.code != 0:
        raise RuntimeError(f"{name} does not work at all:\n{ended.text}")
    shutil.rmtree(work / "tmp")
    (folder / "seconds").write_text(str(ended.seconds))
    return folder


def killed(name: str, seed: int, folder: Path, base: Path) -> list[Outcome]:
    """A command, killed at a change of a file (even seeds) or at any time (odd seeds), and run again.

    Parameters
    ----------
    name, seed
        The command, and the seed of the moment.
    folder
        Empty; gets copies of what is needed.
    base
        Of :func:`isovi_fuzz.fixtures.make`.
    """
    one, known, rng = COMMANDS[name], reference(name, base), default_rng([seed, sum(name.encode())])
    work = folder / "work"
    _copy_needs(one, base, work)
    before = snapshot(work)
    if seed % 2 == 0:
        moment = int(rng.integers(int((known / "moments").read_text()) + 1))
        ended = call(command_killed_at, moment, str(work), *one.words, folder=work, timeout=FIT_SECONDS)
        when = f"change {moment}"
    else:
        after = float(rng.uniform(0, float((known / "seconds").read_text())))
        ended = call(command, *one.words, folder=work, timeout=FIT_SECONDS, kill_after=after)
        when = f"{after:.2f} s"
    shutil.rmtree(work / "tmp", ignore_errors=True)
    kind, detail = _after_the_kill(one, before, work) or _again(one, work, known / "work")
    if ended.code not in (-signal.SIGKILL, 0):
        kind, detail = "traceback", last_lines(ended.text)
    return [Outcome(f"{name}: killed at {when}", seed, one.words[0], kind, detail)]


def _after_the_kill(one: Killed, before: dict[str, str], work: Path) -> tuple[str, str] | None:
    """What is wrong with what is visible after the kill, or nothing."""
    after, owned = snapshot(work), one.result.split("/")[0]
    mine = [name for name in changes(before, after) if name in before and name.split("/")[0] != owned]
    mine = [name for name in mine if not name.endswith(".partial.ckpt")]
    if mine:
        return "input changed", ", ".join(mine)
    visible = [name for name in half_written(work) if not name.startswith(".")]
    if visible:
        return "half-written", ", ".join(visible)
    existed = any(f"{name}/".startswith(f"{one.result}/") for name in before)
    if existed and not (work / one.result).exists():
        return "half-written", f"{one.result} is gone until the command is run again"
    return None


def _again(one: Killed, work: Path, known: Path) -> tuple[str, str]:
    """Outcome of running the command again."""
    ended = isovi(*one.words, *one.again, folder=work, timeout=FIT_SECONDS)
    shutil.rmtree(work / "tmp", ignore_errors=True)
    kind, detail = judge(ended)
    if kind == "refused" and not (work / one.result).exists():
        return "refused again", last_lines(ended.text)
    if kind not in ("success", "refused"):
        return kind, detail
    if one.same(work / one.result) != one.same(known / one.result):
        return "other result", f"{one.result} differs from the uninterrupted one's"
    left = set(os.listdir(work)) ^ set(os.listdir(known))
    left |= _names(work / one.result) ^ _names(known / one.result)
    return ("leftover", ", ".join(sorted(left))) if left else ("success", "")


def _names(path: Path) -> set[str]:
    top = (
        path
        if path.is_dir() and path.suffix != ".zarr"
        else path.parent
        if path.parent.name == "run"
        else path
    )
    return {one.relative_to(top).as_posix() for one in top.rglob("*")} if top.is_dir() else set()
