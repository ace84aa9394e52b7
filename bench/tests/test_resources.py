from __future__ import annotations

import math
import os

import numpy as np
import pytest

from isovi_bench.resources import in_fresh_process, peak_memory, peak_memory_of_children, processor_seconds

SIZE = 100  # megabytes


def after_filling(megabytes: int) -> float:
    np.ones(megabytes * 2**17)
    return peak_memory()


def test_the_peak_counts_memory_that_was_given_back() -> None:
    before = peak_memory()
    full = after_filling(int(before) + SIZE)  # more than whatever was freed before
    assert full >= before + SIZE
    assert peak_memory() >= full


@pytest.mark.slow
def test_a_fresh_process_has_its_own_peak() -> None:
    here = after_filling(int(peak_memory()) + SIZE)
    assert in_fresh_process(os.getpid) != os.getpid()
    assert in_fresh_process(peak_memory) < here - SIZE / 2
    assert math.isfinite(peak_memory_of_children())


def test_processor_time_passes_with_work() -> None:
    before = processor_seconds()
    while processor_seconds() < before + 0.05:
        sum(range(10_000))
    assert processor_seconds() > before
