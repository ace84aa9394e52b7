"""Damaged run folders, packed stores, checkpoints and queries, and the commands that meet them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from numpy.random import Generator, default_rng

from isovi_fuzz import kills, mutations
from isovi_fuzz.cases import FIT_SECONDS
from isovi_fuzz.fixtures import EPOCHS, FIT_RUN, TUNE, copy
from isovi_fuzz.oracle import Outcome, changes, half_written, judge, latent, run_problem, snapshot
from isovi_fuzz.process import isovi

Change = Callable[[Generator, Path, Path], None]
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, 10**30, float("nan"), float("inf"), "", "x", "section:a", [], {}, [None]),
    *(
        {"kind": "Constraint"},
        {"kind": "os.system"},
        {"kind": "Constraint", "target": "x"},
        [1, "a"],
        "../../x",
    ),
)


@dataclass(frozen=True)
class Target:
    """A command and what of it is damaged.

    Attributes
    ----------
    words
        The command, within a folder that holds copies of what ``needs`` names.
    damaged
        Which of them is damaged.
    needs
        What is copied; ``a=b`` is ``b`` under the name ``a``.
    made
        Patterns of the names that it may write or change if it succeeds.
    whole
        The same command in :mod:`isovi_fuzz.kills`, whose result damaged bytes must not change.
    """

    words: tuple[str, ...]
    damaged: str
    needs: tuple[str, ...]
    made: tuple[str, ...] = ()
    whole: str = ""


_RESUME = ("fit", "tissue.h5ad", "--out", "run", *FIT_RUN, *EPOCHS, "--resume")
TARGETS: dict[str, Target] = {
    "diagnose": Target(
        ("diagnose", "run"), "run", ("run",), ("run/diagnosis.json", "run/figures*"), "diagnose"
    ),
    "report": Target(("report", "run"), "run", ("run",), ("run/report.*",)),
    "report --beside": Target(
        ("report", "run", "--beside", "plain"), "plain", ("run", "plain"), ("run/report.*",)
    ),
    "compare": Target(
        ("compare", "run", "plain", "--save", "plot.png"), "run", ("run", "plain"), ("plot.png",)
    ),
    "place": Target(
        ("place", "run", "--query", "query.h5ad", "--out", "placed.h5ad"),
        "run",
        ("run", "query.h5ad"),
        ("placed.h5ad",),
        "place",
    ),
    "place, query": Target(
        ("place", "run", "--query", "query.h5ad", "--out", "placed.zarr"),
        "query.h5ad",
        ("run", "query.h5ad"),
        ("placed.zarr*",),
    ),
    "fit --resume, finished": Target(_RESUME, "run", ("run", "tissue.h5ad"), ("run/report.*",)),
    "fit --force": Target((*_RESUME[:-1], "--force"), "run", ("run", "tissue.h5ad"), ("run", "run/*")),
    "fit --resume": Target(
        _RESUME,
        "run.partial.ckpt",
        ("tissue.h5ad", "run.partial.ckpt=unfinished/run.partial.ckpt"),
        ("run", "run/*", "run.partial.ckpt"),
    ),
    "fit, packed": Target(
        ("fit", "packed.zarr", "--out", "run", *FIT_RUN, *EPOCHS),
        "packed.zarr",
        ("packed.zarr",),
        ("run", "run/*"),
    ),
    "inspect, packed": Target(("inspect", "packed.zarr"), "packed.zarr", ("packed.zarr",)),
    "pack": Target(("pack", "tissue.zarr", "new.zarr"), "tissue.zarr", ("tissue.zarr",), ("new.zarr*",)),
    "pack --force": Target(
        ("pack", "tissue.h5ad", "packed.zarr", "--force"),
        "packed.zarr",
        ("tissue.h5ad", "packed.zarr"),
        ("packed.zarr*",),
    ),
    "diagnose, packed": Target(
        ("diagnose", "packed_run"),
        "packed_run",
        ("packed_run",),
        ("packed_run/diagnosis.json", "packed_run/figures*"),
    ),
    "simulate --force": Target(
        ("simulate", "--n-obs", "60", "--n-genes", "30", "--out", "tissue.zarr", "--force"),
        "tissue.zarr",
        ("tissue.zarr",),
        ("tissue.zarr*",),
    ),
    "tune --resume": Target(
        ("tune", "tissue.h5ad", "--out", "tuned", *TUNE, "--resume"),
        "tuned.partial.trials",
        ("tissue.h5ad", "tuned.partial.trials"),
        ("tuned", "tuned/*", "tuned.partial.trials*"),
    ),
}
SILENT = (
    "flipped",
    "a_hole",
    "chunk_lost",
    "chunk_damaged",
    "truncated",
    "emptied",
)  # must not change a result


# ---------------------------------------------------------------------------- changes


def of_bytes(change: Any) -> Change:
    """A mutation of bytes, of one file of a folder."""

    def damage(rng: Generator, path: Path, _: Path) -> None:
        change(rng, _place(rng, path))

    damage.__name__ = change.__name__
    return damage


def _place(rng: Generator, path: Path) -> Path:
    """Of a run mostly one of the files that are read; of anything else any file."""
    read = [path / name for name in ("run.json", "metrics.json", "adata.h5ad", "model", "history.csv")]
    read = [file for file in read if file.exists()]
    file = read[int(rng.integers(len(read)))] if read and rng.random() < 0.85 else path
    return mutations.some_file(rng, file)


def folder_in_place_of_a_file(rng: Generator, path: Path, _: Path) -> None:
    file = _place(rng, path)
    file.unlink()
    file.mkdir()


def link_to_nothing(rng: Generator, path: Path, _: Path) -> None:
    file = _place(rng, path)
    file.unlink()
    file.symlink_to(rng.choice(["/no/such/file", file.name, ".."]))


def file_of_another(rng: Generator, path: Path, other: Path) -> None:
    """The file of the same name of another run."""
    names = sorted(one.relative_to(path) for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    name = _place(rng, path).relative_to(path) if names else Path()
    if (other / name).is_file():
        shutil.copy2(other / name, path / name)
    else:
        mutations.of_other_content(rng, path)


def json_value(rng: Generator, path: Path, _: Path) -> None:
    """Another value somewhere in a JSON file."""
    files = sorted(path.rglob("*.json")) if path.is_dir() else []
    files = [one for one in files if one.name != "report.json" and one.read_bytes()[:1] in (b"{", b"[")]
    if not files:
        mutations.flipped(rng, path)
        return
    file = files[int(rng.integers(len(files)))]
    content = json.loads(file.read_text())
    places = list(_places(content))
    *way, last = places[int(rng.integers(len(places)))]
    holder = content
    for step in way:
        holder = holder[step]
    if rng.random() < 0.3 and isinstance(holder, dict):
        del holder[last]
    else:
        holder[last] = JSON_VALUES[int(rng.integers(len(JSON_VALUES)))]
    file.write_text(json.dumps(content))


def _places(content: Any) -> Any:
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for name, value in items:
        yield (name,)
        for below in _places(value):
            yield (name, *below)


def json_of_another_type(rng: Generator, path: Path, _: Path) -> None:
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    file = files[int(rng.integers(len(files)))]
    file.write_text(json.dumps(JSON_VALUES[int(rng.integers(len(JSON_VALUES)))]))


def numbers_missing(rng: Generator, path: Path, _: Path) -> None:
    """Numbers of the metrics are null, as NaN is written."""
    file = path / "metrics.json"
    if not file.is_file():
        mutations.emptied(rng, path)
        return
    content = json.loads(file.read_text())
    for part in content.values():
        for name in part if isinstance(part, dict) else ():
            part[name] = None if rng.random() < 0.5 else part[name]
    file.write_text(json.dumps(content))


def table_changed(rng: Generator, path: Path, _: Path) -> None:
    files = sorted(path.rglob("*.csv")) if path.is_dir() else []
    if not files:
        mutations.of_other_content(rng, path)
        return
    contents = ["", "a,b\n1,2\n", ",x\n0,y\n", "epoch\n", "\x00", "epoch,elbo_train\n0,nan\nx,1\n", "a\n" * 3]
    files[0].write_text(contents[int(rng.integers(len(contents)))])


def data_changed(rng: Generator, path: Path, _: Path) -> None:
    """A structural mutation of AnnData within."""
    import h5py

    files = [path] if path.suffix == ".h5ad" else sorted(path.rglob("*.h5ad"))
    if not files:
        mutations.lost(rng, path)
        return
    change = mutations.STRUCTURE[int(rng.integers(len(mutations.STRUCTURE)))]
    with h5py.File(files[0], "r+") as file:
        try:
            change(rng, file)
        except (KeyError, ValueError):  # what it changes is not there
            mutations.an_element_missing(rng, file)


def folder_emptied(_: Generator, path: Path, __: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.write_bytes(b"")


def a_chunk(rng: Generator, path: Path) -> Path:
    """A chunk of the counts or of the positions of a store; of a run, its data."""
    chunks = [
        one for one in path.rglob("*") if one.is_file() and not one.name.startswith((".z", "zarr.json"))
    ]
    wanted = sorted(one for one in chunks if {"X", "spatial"} & set(one.parts)) or sorted(chunks) or [path]
    return wanted[int(rng.integers(len(wanted)))]


def chunk_lost(rng: Generator, path: Path, _: Path) -> None:
    a_chunk(rng, path).unlink()


def chunk_damaged(rng: Generator, path: Path, _: Path) -> None:
    change = [mutations.truncated, mutations.flipped, mutations.a_hole][int(rng.integers(3))]
    change(rng, a_chunk(rng, path))


_BYTES = (
    mutations.truncated,
    mutations.flipped,
    mutations.emptied,
    mutations.of_other_content,
    mutations.a_hole,
)
COMMON = (
    *map(of_bytes, (*_BYTES, mutations.lost)),
    folder_in_place_of_a_file,
    link_to_nothing,
    folder_emptied,
)
OF_RUNS = (
    file_of_another,
    json_value,
    json_value,
    json_of_another_type,
    numbers_missing,
    table_changed,
    data_changed,
)
OF_STORES = (of_bytes(mutations.metadata_of_another_shape), chunk_lost, chunk_damaged)


def _changes_of(target: Target) -> tuple[Change, ...]:
    if target.damaged.endswith(".zarr"):
        return (*COMMON, *OF_STORES)
    if target.damaged.endswith(".h5ad"):
        return (*COMMON[:-1], data_changed, data_changed)
    return (*COMMON, *OF_RUNS) if "ckpt" not in target.damaged else COMMON


DAMAGES = tuple(TARGETS)  # in turn


# ---------------------------------------------------------------------------- cases


def damaged_folder(name: str, seed: int, folder: Path, base: Path) -> list[Outcome]:
    """One command on a damaged folder.

    Parameters
    ----------
    name, seed
        Target, and the seed of the damage.
    folder
        Empty; gets copies of what is needed.
    base
        Of :func:`isovi_fuzz.fixtures.make`.
    """
    target, rng = TARGETS[name], default_rng([seed, sum(name.encode())])
    work = folder / "work"
    for needed in target.needs:
        to, _, source = needed.partition("=")
        copy(base / (source or to), work / to)
    damage = _changes_of(target)[int(rng.integers(len(_changes_of(target))))]
    damage(rng, work / target.damaged, base / ("plain" if target.damaged != "plain" else "run"))
    case = f"{name}: {damage.__name__}"
    before = snapshot(work)
    ended = isovi(*target.words, folder=work, timeout=FIT_SECONDS)
    shutil.rmtree(work / "tmp", ignore_errors=True)
    kind, detail = judge(ended)
    after = snapshot(work)
    touched = changes(before, after)
    wrong = [
        one for one in touched if kind != "success" or not any(fnmatch(one, made) for made in target.made)
    ]
    if kind in ("success", "refused") and wrong:
        kind = "input changed" if set(wrong) & before.keys() else "leftover"
        detail = ", ".join(wrong)
    elif kind == "success":
        kind, detail = _result(target, damage.__name__, work, base, touched)
    return [Outcome(case, seed, target.words[0], kind, detail)]


def _result(target: Target, damage: str, work: Path, base: Path, touched: list[str]) -> tuple[str, str]:
    """What is wrong with the results of a command that succeeded."""
    half = [one for one in half_written(work) if one in touched]
    if half:
        return "half-written", ", ".join(half)
    if target.words[0] == "fit" and touched:
        if problem := run_problem(work / "run"):
            return "not finite", problem
        is_packed = "packed.zarr" in target.words
        expected = kills.reference("fit, packed", base) / "work" / "run" if is_packed else base / "run"
        if damage in SILENT and latent(work / "run").tobytes() != latent(expected).tobytes():
            return "other result", "the latent representation differs, and nothing was said"
    if target.whole and damage in SILENT:
        command = kills.COMMANDS[target.whole]
        expected = command.same(kills.reference(target.whole, base) / "work" / command.result)
        if command.same(work / command.result) != expected:
            return "other result", f"{command.result} differs, and nothing was said"
    return "success", ""
