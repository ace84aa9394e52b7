"""Shape checks at run time, Hypothesis without deadlines, and real data where there is some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Before any test imports them. Coverage has started by now, and the hook keeps file names and line numbers.
install_import_hook(["isovi", "isovi_bench"], "beartype.beartype")

# Times on a busy machine say nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a real section by name; skips the test where the data is absent."""
    folder = REPOSITORY.parent / "shared" / "data"

    def path(name: str) -> Path:
        file = folder / f"{name}.h5ad"
        if not file.is_file():
            pytest.skip(f"real data {name!r} is not in ../shared/data")
        return file

    return path
