from __future__ import annotations

from pathlib import Path

import pytest

from isovi.errors import InputError
from isovi_bench.rows import Rows
from isovi_bench.timings.partial import counted, unfinished

ASKED = {"n_obs": 9, "contenders": ("equal",)}


def test_rows_stay_until_a_measurement_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "epochs.json"

    def measure(rows: Rows) -> None:
        rows.add([{"a": 1}])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), unfinished(out, ASKED) as rows:
        measure(rows)
    with unfinished(out, ASKED) as rows:
        assert rows.read()[1:] == [{"a": 1}]
    assert not list(out.parent.iterdir())


def test_another_measurement_is_not_resumed(tmp_path: Path) -> None:
    out = tmp_path / "epochs.json"

    def measure(rows: Rows) -> None:
        rows.add([{"a": 1}])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped, unfinished(out, ASKED) as rows:
        measure(rows)
    assert str(rows.path) in stopped.value.__notes__[0]
    with (
        pytest.raises(InputError, match=r"another measurement \(n_obs 9, contenders \['equal'\]\)"),
        unfinished(out, ASKED | {"n_obs": 8}),
    ):
        pass


def test_nothing_is_kept_of_a_measurement_that_did_not_begin(tmp_path: Path) -> None:
    out = tmp_path / "epochs.json"
    with pytest.raises(InputError), unfinished(out, ASKED):
        raise InputError("No such section.", "It must be there.", "Name another.")
    assert not list(tmp_path.iterdir())
    (tmp_path / "epochs.json.partial.jsonl").write_text('{"asked": {"n_obs": 8}}\n')  # as after kill -9
    with unfinished(out, ASKED) as rows:
        assert rows.read() == [{"asked": {"n_obs": 9, "contenders": ["equal"]}}]


def test_nothing_is_kept_without_an_output() -> None:
    with unfinished(None, ASKED) as rows:
        rows.add([{"a": 1}])
        assert rows.read() == [{"a": 1}]
    assert not rows.path.exists()


def test_what_is_left_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 100.0, 300.0, 400.0])
    monkeypatch.setattr("isovi_bench.timings.partial.time.monotonic", lambda: next(times))
    assert list(counted("abc", "Fits")) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == [
        "Fits: 1 of 3, about 3 min left",
        "Fits: 2 of 3, about 2 min left",
        "Fits: 3 of 3",
    ]
