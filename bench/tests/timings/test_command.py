from __future__ import annotations

import inspect
import itertools
import time
from pathlib import Path

import pytest

from isovi.errors import InputError
from isovi_bench.timings import command
from isovi_bench.timings.command import STAGES, Stages


@pytest.mark.parametrize("name", [name for names in STAGES.values() for name in names])
def test_functions_of_stages_are_where_they_are_looked_up(name: str) -> None:
    owner, attribute = command._found(name)
    found = inspect.getattr_static(owner, attribute)
    assert callable(getattr(found, "__func__", found))


def test_a_stage_has_the_time_that_no_stage_called_from_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(time, clock, itertools.count().__next__)  # a second passes at every look
    stages = Stages()
    with stages._of("outer"):
        for _ in range(2):
            with stages._of("inner"):
                pass
    assert stages.seconds == stages.cpu_seconds == {"outer": 3, "inner": 2}
    assert [row["stage"] for row in stages.rows()] == ["outer", "inner"]


def test_the_memory_of_a_stage_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([100, 300, 120, 200, 110])  # largest since the last look, at the stages' edges
    monkeypatch.setattr(command, "peak_memory", lambda: next(left))
    stages = Stages()
    with stages._of("outer"):
        with stages._of("inner"):
            pass
        with stages._of("inner"):
            pass
    assert {row["stage"]: row["peak_mb"] for row in stages.rows()} == {"outer": 120, "inner": 300}


def test_a_mode_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"modes=cloud\. They are memory, disk\."):
        command.measure(tmp_path, modes=["disk", "cloud"])


def test_a_slope_is_that_of_the_logarithms() -> None:
    about = {"mode": "disk", "command": "fit", "seconds": 1.0}
    rows = [
        {**about, "n_obs": n, "stage": stage, "cpu_seconds": n**slope / 100, "peak_mb": n}
        for n in (10, 100, 1000)
        for stage, slope in (("genes", 1), ("domains", 2))
    ]
    written = command.table(rows)
    assert "| disk | fit | genes | 0.1 | 1 | 10 | 1 | 1 | 10 | 100 | 1000 |" in written
    assert "| disk | fit | domains | 1 | 100 | 1e+04 | 2 | 2 | 10 | 100 | 1000 |" in written
    assert "| disk | fit | all | 1.1 | 101 |" in written


@pytest.mark.slow
def test_commands_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "in_fresh_process", lambda function, *given: function(*given))
    rows = command.measure(tmp_path, [300], ["disk"], epochs=1)
    of: dict[str, set[str]] = {name: set() for name in command.COMMANDS}
    for row in rows:
        of[row["command"]].add(row["stage"])
        assert row["mode"] == "disk" and row["peak_mb"] > 50 and row["seconds"] >= 0
    assert of["fit"] >= {"genes", "training", "encoding", "domains", "metrics", "plots", "report"}
    assert of["place"] >= {"reading", "placing", "writing"} and of["diagnose"] >= {"geometry", "plots"}
    assert (tmp_path / "300-disk" / "report.html").exists()
    assert command.measure(tmp_path, [300], ["disk"], epochs=1) == rows
    assert "| disk | place |" in command.table(rows)
