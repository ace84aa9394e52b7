from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isovi_bench.task import METHODS, Task

EXAMPLE = Path("docs", "examples", "nmf_adapter.py")


@pytest.fixture
def example(repository: Path) -> Iterator[Any]:
    """The documentation's example, imported as a grid's adapters are; forgotten afterwards."""
    spec = importlib.util.spec_from_file_location("nmf_adapter", repository / EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    METHODS.pop("nmf", None)


def test_the_examples_adapter_is_short_and_shown_whole(repository: Path) -> None:
    assert len((repository / EXAMPLE).read_text().splitlines()) <= 40
    page = (repository / "docs" / "adapter.md").read_text()
    assert "```{literalinclude} examples/nmf_adapter.py\n:language: python\n```" in page


def test_the_example_is_a_method_like_any_other(example: Any, make_task: Callable[..., Task]) -> None:
    task = make_task(max_epochs=300)
    before = task.spots.X.toarray(), task.seen.X.toarray()
    known = METHODS["nmf"]
    assert known.fit is example.nmf and known.encodes and not known.sees_positions
    found = known.fit(task, n_latent=4)
    assert found.latent.shape == (120, 4) and np.isfinite(found.latent).all()
    assert found.epochs is not None and found.model is None
    assert np.array_equal(known.fit(make_task(max_epochs=300), n_latent=4).latent, found.latent)
    assert np.array_equal(task.spots.X.toarray(), before[0])
    assert np.array_equal(task.seen.X.toarray(), before[1])
