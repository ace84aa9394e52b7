from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isovi.data import outputs
from isovi.data.owner import Owner
from isovi.errors import OutputError

RECORD = json.dumps({"schema": 1, "provenance": {}})
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="starts are read from /proc")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def a_run(folder: Path, record: str = RECORD) -> Path:
    """A folder with some of the files of a run."""
    (folder / "model").mkdir(parents=True)
    (folder / "figures").mkdir()
    for name in ("adata.h5ad", "metrics.json", "model/model.pt", "figures/domains.png"):
        (folder / name).write_text("old")
    (folder / "run.json").write_text(record)
    return folder


def replace(path: Path) -> None:
    with outputs.output_directory(path, force=True) as folder:
        (folder / "run.json").write_text("new")


def dead() -> Owner:
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return Owner(Owner.current().machine, process.pid, 1)


# ---------------------------------------------------------------------------- what force replaces


@pytest.mark.parametrize(
    "record",
    [RECORD, json.dumps({"schema": 1, "tried": [], "provenance": {}}),
     json.dumps({"arguments": {}, "input_sha256": "", "input": "x"})],
    ids=["run", "search", "0.1.0"],
)  # fmt: skip
def test_runs_and_searches_are_replaced(tmp_path: Path, record: str) -> None:
    replace(a_run(tmp_path / "out", record))
    assert tree(tmp_path) == {"out/run.json": b"new"}


@pytest.mark.parametrize("record", ["{}", "[]", "", '{"schema": 1}', '{"name": "my own"}', "\x00"])
def test_a_folder_with_any_run_json_is_no_run(tmp_path: Path, record: str) -> None:
    """Fault 4: a folder with a ``run.json``, be it ``{}``, was removed with all that was in it."""
    before = tree(a_run(tmp_path / "out", record).parent)
    with pytest.raises(OutputError, match=r"no run\.json of a run"):
        replace(tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["in.h5ad", "placed.h5ad", "model/notes.txt", "figures/mine.png", "a/adata.h5ad", ".git"]
)
def test_files_that_are_not_ours_keep_a_run_from_being_replaced(tmp_path: Path, name: str) -> None:
    out = a_run(tmp_path / "out")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="files that isoVI did not write") as caught:
        replace(out)
    assert name in caught.value.received
    assert tree(tmp_path) == before


def test_links_in_a_run_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    out = a_run(tmp_path / "out")
    (out / "data").symlink_to(tmp_path / "data")
    with pytest.raises(OutputError, match="did not write: data"):
        replace(out)
    assert (out / "data" / "mine.txt").read_text() == "mine"


def replace_while_a_file_appears(out: Path) -> None:
    with outputs.output_directory(out, force=True) as folder:
        (folder / "run.json").write_text("new")
        (out / "mine.txt").write_text("mine")


def test_a_file_that_appears_while_a_run_is_replaced_is_kept(tmp_path: Path) -> None:
    out = a_run(tmp_path / "out")
    with pytest.raises(OutputError, match="The result is complete, in") as caught:
        replace_while_a_file_appears(out)
    assert (out / "mine.txt").read_text() == "mine"
    kept = Path(caught.value.remedy.split('"')[1])
    assert kept == tmp_path / "out.result"
    with outputs.exclusive(out):  # as the next command on this output
        assert tree(kept) == {"run.json": b"new"}, "a result that could not be moved is no leftover"


# ---------------------------------------------------------------------------- inputs


def itself(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "in.h5ad").write_text("input")
    return tmp_path / "in.h5ad", tmp_path / "in.h5ad"


def a_link_to_it(tmp_path: Path) -> tuple[Path, Path]:
    source, _ = itself(tmp_path)
    (tmp_path / "link.h5ad").symlink_to(source)
    return source, tmp_path / "link.h5ad"


def a_hard_link(tmp_path: Path) -> tuple[Path, Path]:
    source, _ = itself(tmp_path)
    os.link(source, tmp_path / "hard.h5ad")
    return source, tmp_path / "hard.h5ad"


def its_folder(tmp_path: Path) -> tuple[Path, Path]:
    out = a_run(tmp_path / "out")
    return out / "adata.h5ad", out


def inside_of_it(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "outs" / "deep").mkdir(parents=True)
    return tmp_path / "outs", tmp_path / "outs" / "deep" / "run"


def by_another_way(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "outs").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "outs")
    return tmp_path / "outs", tmp_path / "way" / "run"


@pytest.mark.parametrize(
    "case", [itself, a_link_to_it, a_hard_link, its_folder, inside_of_it, by_another_way]
)  # fmt: skip
def test_an_output_is_apart_from_the_input(tmp_path: Path, case: Callable[[Path], tuple[Path, Path]]) -> None:
    source, out = case(tmp_path)
    before, entered = tree(tmp_path), False
    with (
        pytest.raises(OutputError, match="The input is never changed"),
        outputs.exclusive(out, [None, source]),
    ):
        entered = True
    assert not entered and tree(tmp_path) == before


def test_an_output_is_not_inside_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "x.zarr" / "obs").mkdir(parents=True)
    (tmp_path / "x.zarr" / "zarr.json").write_text("{}")
    with (
        pytest.raises(OutputError, match="inside of a zarr store"),
        outputs.exclusive(tmp_path / "x.zarr" / "obs" / "run"),
    ):
        pass


def test_an_output_is_no_part_of_a_run(tmp_path: Path) -> None:
    """Fault 10: ``isovi place --out RUN/adata.h5ad --force`` destroyed the run."""
    run = a_run(tmp_path / "run")
    with (
        pytest.raises(OutputError, match=r"is part of the run in .*Choose another"),
        outputs.exclusive(run / "adata.h5ad"),
    ):
        pass
    with outputs.exclusive(run / "placed.h5ad"):
        pass


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "root of the file system"),
        ("~no-such-user/x", "no path of an output"),
        ("a\0b", "no path of an output"),
        ("x" * 256, "256"),
        ("ü" * 128, "256"),
        (f"{'x' * 200}/" * 21 + "x", "path of"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(path: str, words: str) -> None:
    with pytest.raises(OutputError, match=words):
        outputs.output_path(path)


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 243, f"{'x' * 250}.zarr"])
def test_temporary_names_of_long_names_fit(tmp_path: Path, name: str) -> None:
    """Fault 19: names of 243 characters and more ended in a traceback."""
    with outputs.exclusive(tmp_path / name), outputs.output_directory(tmp_path / name) as folder:
        (folder / "run.json").write_text(RECORD)
    replace(tmp_path / name)
    assert tree(tmp_path) == {f"{name}/run.json": b"new"}
    assert len(os.fsencode(outputs.beside(tmp_path / name, ".partial.trials").name)) < 230
    assert outputs.beside(tmp_path / "run", ".partial.ckpt") == tmp_path / "run.partial.ckpt"


def test_names_with_the_same_beginning_have_other_temporary_names(tmp_path: Path) -> None:
    one, other = (outputs.beside(tmp_path / f"{'x' * 240}{end}", ".lock") for end in "ab")
    assert one != other


# ---------------------------------------------------------------------------- one process at a time

HOLD = """
import sys, time
from isovi.data import outputs

with outputs.exclusive(sys.argv[1]), outputs.output_directory(sys.argv[1]) as folder:
    (folder / "half.txt").write_text("half")
    print("holding", flush=True)
    time.sleep(600)
"""


@needs_proc
def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "holding\n"
        before = tree(tmp_path)
        with (
            pytest.raises(OutputError, match=f"is being written by process {process.pid} on"),
            outputs.exclusive(out),
        ):
            pass
        assert tree(tmp_path) == before
        process.kill()
    assert tree(tmp_path)
    with outputs.exclusive(out):
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"], "what the killed one left is gone"
    assert not list(tmp_path.iterdir())


def test_the_lock_is_released_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), outputs.exclusive(tmp_path / "deep" / "out"):
        raise KeyboardInterrupt
    assert not tree(tmp_path)


def test_a_lock_of_another_machine_is_kept(tmp_path: Path) -> None:
    file = tmp_path / ".out.lock"
    owner = Owner("deadbeef", 1, 1)
    file.write_text(json.dumps({"host": "node7", "owner": str(owner), "since": "2026-01-01T00:00:00"}))
    with (
        pytest.raises(OutputError, match=r"process 1 on node7, since 2026.*no longer runs, remove") as caught,
        outputs.exclusive(tmp_path / "out"),
    ):
        pass
    assert str(file) in caught.value.remedy and file.exists()


@pytest.mark.parametrize("text", ["{}", "[]", "mine", '{"owner": 3, "host": "x", "since": "y"}'])
def test_a_file_that_is_no_lock_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / ".out.lock").write_text(text)
    with pytest.raises(OutputError, match="by another process"), outputs.exclusive(tmp_path / "out"):
        pass
    assert (tmp_path / ".out.lock").read_text() == text


@needs_proc
@pytest.mark.parametrize("empty", [False, True])
def test_a_lock_of_an_ended_process_is_taken_over(tmp_path: Path, empty: bool) -> None:
    found = json.dumps({"host": "here", "owner": str(dead()), "since": "2026-01-01T00:00:00"})
    (tmp_path / ".out.lock").write_text("" if empty else found)
    with outputs.exclusive(tmp_path / "out"):
        assert json.loads((tmp_path / ".out.lock").read_text())["owner"] == str(Owner.current())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- leftovers


@needs_proc
def test_a_run_that_was_moved_aside_is_put_back(tmp_path: Path) -> None:
    """A process may be killed between moving the old run aside and moving the new one into place."""
    aside = a_run(tmp_path / f".out.{dead()}-0123abcd.old")
    before = tree(aside)
    with outputs.exclusive(tmp_path / "out"):
        assert tree(tmp_path / "out") == before
    a_run(tmp_path / f".out.{dead()}-0123abcd.old")
    with outputs.exclusive(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@needs_proc
def test_leftovers_inside_of_a_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    run, names = (
        a_run(tmp_path / "run"),
        [f"figures/.domains.png.{dead()}-0123abcd.tmp", f".x.{dead()}-0123abcd.tmp"],
    )
    for name in (*names, "figures/.mine.tmp", f".x.{Owner.current()}-0123abcd.tmp"):
        (run / name).write_text("half")
    before = tree(run)
    with outputs.exclusive(run):
        pass
    assert before.keys() - tree(run).keys() == set(names)


# ---------------------------------------------------------------------------- changes of a folder


def revise(run: Path, error: type[BaseException] | None = None) -> None:
    before = tree(run)
    with outputs.revised_directory(run) as folder:
        with outputs.replacing(folder / "metrics.json") as file:
            file.write_text("new")
        assert tree(run) == before, "changes are seen when all are made"
        if error is not None:
            raise error


def test_a_folder_is_revised_whole_or_not_at_all(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        revise(run, KeyboardInterrupt)
    assert tree(tmp_path) == before
    revise(run)
    assert tree(tmp_path) == {**before, "run/metrics.json": b"new"}
