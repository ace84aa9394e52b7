from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from isovi_bench.rows import Rows


def test_rows_are_read_back_in_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "new" / "rows.jsonl")
    assert rows.read() == [] and rows.frame().empty
    rows.add([{"a": 1, "b": "x"}])
    Rows(rows.path).add([{"a": 0.5, "b": None}, {"a": 3}])
    assert rows.read() == [{"a": 1, "b": "x"}, {"a": 0.5, "b": None}, {"a": 3}]
    assert rows.frame()["a"].tolist() == [1, 0.5, 3]


def test_rows_that_are_interrupted_leave_those_before(tmp_path: Path) -> None:
    def stopped() -> Iterator[dict[str, int]]:
        yield {"a": 2}
        raise KeyboardInterrupt

    rows = Rows(tmp_path / "rows.jsonl")
    rows.add([{"a": 1}])
    with pytest.raises(KeyboardInterrupt):
        rows.add(stopped())
    assert rows.read() == [{"a": 1}] and list(tmp_path.iterdir()) == [rows.path]
