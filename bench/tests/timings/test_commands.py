from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from isovi_bench import cli
from isovi_bench.timings import epoch, geometry, memory, whole, workers


def time(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["time", *map(str, arguments)])


def test_geometry_is_timed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "in_fresh_process", lambda case, *given: case(*given))
    result = time("geometry", "--size", 400, "--out", tmp_path / "rows.json")
    assert result.exit_code == 0 and "| ellipses, 3-D | 400 |" in result.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["what"], row["n"]) for row in rows] == [(name, 400) for name in geometry.CASES]


def test_every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    for module in (epoch, memory):
        monkeypatch.setattr(module, "measure", lambda *given, **_: calls.append(given) or [])
        monkeypatch.setattr(module, "table", lambda _: "a table")
    monkeypatch.setattr(whole, "measure", lambda *given, **_: calls.append(given) or [])
    monkeypatch.setattr(memory, "draw", lambda *given: calls.append(given))
    shared = ("--section", "a.h5ad", "--repeats", 3)
    few = ("--n-obs", 9, "--epochs", 4, "--contender", "equal", "--whole", 2)
    page = tmp_path / "page.md"
    page.write_text("<!-- epochs: begin --><!-- epochs: end -->")
    assert time("epoch", *shared, *few, "--page", page).stdout == "a table\n"
    assert page.read_text() == "<!-- epochs: begin -->\n\na table\n\n<!-- epochs: end -->"
    more = ("--size", 7, "--size", 8, "--pairs", "knn:6", "--steps", 2)
    assert time("memory", "--out", tmp_path, *shared, *more).stdout == "a table\n"
    assert time("memory", "--out", tmp_path).exit_code == 0
    drawn = (tmp_path, tmp_path / "memory.png")
    assert calls == [
        (Path("a.h5ad"), 9, 4, 3, ["scvi", "equal"]),
        (Path("a.h5ad"), 2),
        (tmp_path, [7, 8], Path("a.h5ad"), ["knn:6"], 2, 3),
        drawn,
        (tmp_path, memory.SIZES, None, ("all",), memory.STEPS, 1),
        drawn,
    ]


def test_ratios_of_workers_are_with_and_without_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = (workers.Timing(1, 10.0, 40.0), workers.Timing(2, 20.0, 20.0))
    monkeypatch.setattr(workers, "measure", lambda *given: timings if given == (8, 0.0) else None)
    shown = time("workers", "--fits", "--jobs", 8).stdout.splitlines()
    assert shown == [
        "1 worker(s): 8 jobs in 40.0 s, started in 10.0 s",
        "2 worker(s): 8 jobs in 20.0 s, started in 20.0 s",
        "Ratio 0.500, with the start 0.800",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "nowhere.html"), 'There is no "nowhere.html"'),
        (("epoch", "--contender", "nope"), "contenders=nope"),
        (("command", "--out", "out", "--page", "nowhere.md"), "nowhere.md was given"),
    ],
)
def test_wrong_input_ends_in_one_paragraph(arguments: tuple[str, ...], message: str) -> None:
    result = time(*arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
