"""Rows of results in a file of JSON lines, which a command that is run again adds to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from isovi.data.io import replacing


class Rows:
    """A file with one JSON object a line.

    Parameters
    ----------
    path
        Made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All rows so far, in the order in which they were added."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def frame(self) -> pd.DataFrame:
        """All rows so far, as a table."""
        return pd.DataFrame(self.read())

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows; the file has all of them or, if this is interrupted, none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.exists() else b""
        with replacing(self.path) as temporary:
            temporary.write_bytes(before + "".join(f"{json.dumps(row)}\n" for row in rows).encode())
