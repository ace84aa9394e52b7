"""What the fuzzer in small starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from isovi_fuzz.fixtures import make


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, runs, a packed store and a checkpoint."""
    return make(tmp_path_factory.mktemp("fuzz") / "base", ("run", "plain", "packed.zarr", "unfinished"))
