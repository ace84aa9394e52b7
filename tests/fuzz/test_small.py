"""The fuzzer in small: most mutations and commands once; ``make fuzz`` does it in full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from isovi_fuzz import plan
from isovi_fuzz.cases import mutated_input
from isovi_fuzz.damages import TARGETS, damaged_folder
from isovi_fuzz.inputs import MUTATIONS
from isovi_fuzz.kills import killed
from isovi_fuzz.mutations import BYTES, MEMORY, STRUCTURE
from isovi_fuzz.oracle import GOOD, Outcome, judge, message_problem
from isovi_fuzz.process import Ended, call, isovi

TRAINED = (  # mutations whose inputs are fitted to the end, with seed 1: each takes seconds
    *("odd_cells_or_genes", "odd_sections", "odd_labels", "huge_counts", "sections_of_one_position"),
)
REFUSED = (  # those that a fit refuses, with seed 0
    *("counts_of_another_type", "counts_that_are_no_counts", "normalised_counts", "no_counts"),
    *("positions_of_another_shape", "positions_that_are_no_numbers", "positions_of_another_scale"),
    *("no_positions", "repeated_names", "wrong_pointers", "wrong_indices", "a_part_cut_short"),
    *("another_shape_attribute", "another_encoding", "an_array_of_a_million_million_entries", "truncated"),
    *("of_other_content", "metadata_of_another_shape"),
)
INSPECTED = tuple(  # of changes of values, which anndata reads, every third
    one.__name__ for one in (*MEMORY[::3], *STRUCTURE, *BYTES) if one.__name__ not in REFUSED
)
FOLDERS = tuple(name for name in TARGETS if name not in ("tune --resume", "diagnose, packed", "fit --force"))
KILLED = ("fit", "fit --resume", "place", "pack", "pack --force", "report", "compare", "simulate", "inspect")


def require_good(found: list[Outcome]) -> None:
    bad = [
        f"{one.case}, seed {one.seed}: {one.verb}: {one.kind}\n{one.detail}"
        for one in found
        if not one.is_good
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("name", INSPECTED)
def test_inspect_shows_or_refuses(name: str, tmp_path: Path) -> None:
    require_good(mutated_input(name, 0, tmp_path, ("inspect",)))


@pytest.mark.parametrize("name", [*TRAINED, *REFUSED])
def test_fit_succeeds_or_refuses(name: str, tmp_path: Path) -> None:
    require_good(mutated_input(name, int(name in TRAINED), tmp_path, ("fit",)))


@pytest.mark.parametrize("name", FOLDERS)
def test_damaged_folders_are_read_or_refused(name: str, tmp_path: Path, base: Path) -> None:
    require_good(damaged_folder(name, 1, tmp_path, base))


@pytest.mark.parametrize("name", KILLED)
def test_what_is_killed_leaves_nothing_half_and_is_done_by_a_second_run(
    name: str, tmp_path: Path, base: Path
) -> None:
    require_good(killed(name, 2, tmp_path, base))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # each example is a command
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(file=st.sampled_from(["run.json", "metrics.json"]), place=st.integers(0), value=JSON)
def test_any_json_in_a_run_is_read_or_refused(
    base: Path, tmp_path: Path, file: str, place: int, value: object
) -> None:
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for name in ("run.json", "metrics.json", "history.csv"):
        shutil.copy(base / "run" / name, run / name)
    content = json.loads((run / file).read_text())
    holders = [content, *(one for one in content.values() if isinstance(one, dict))]
    holder = holders[place % len(holders)]
    holder[sorted(holder)[place // len(holders) % len(holder)]] = value
    (run / file).write_text(json.dumps(content))
    kind, detail = judge(isovi("compare", run, base / "plain", folder=tmp_path))
    assert kind in GOOD, detail


# ---------------------------------------------------------------------------- the fuzzer itself


def test_the_plan_is_fixed_and_shards_share_it() -> None:
    numbers = {"inputs": 1000, "folders": 300, "kills": 100}
    whole = plan.cases(numbers)
    assert len(whole) == len(set(whole)) == 1400
    assert {name for kind, name, _ in whole if kind == "inputs"} == set(MUTATIONS)
    assert sorted(
        plan.cases(numbers, (0, 3)) + plan.cases(numbers, (1, 3)) + plan.cases(numbers, (2, 3))
    ) == sorted(whole)


def test_outcomes_are_judged() -> None:
    message = 'Error: adata.X holds -1 (spot "a", gene "b"). Counts cannot be negative. Name the layer.'
    assert judge(Ended(2, message, 0.1)) == ("refused", "")
    assert judge(Ended(0, "Wrote run", 0.1)) == ("success", "")
    assert judge(Ended(2, "Error: no", 0.1))[0] == "no message"
    assert judge(Ended(2, "Usage: isovi", 0.1))[0] == "no message"
    assert judge(Ended(1, "Traceback (most recent call last):\nValueError: x", 0.1))[0] == "traceback"
    assert judge(Ended(0, "Traceback (most recent call last):\nValueError: x", 0.1))[0] == "traceback"
    assert judge(Ended(-11, "", 0.1))[0] == "crash"
    assert judge(Ended(None, "", 9.0))[0] == "hang"
    assert message_problem("") == "no message"


def test_hangs_and_crashes_are_seen(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert call(time.sleep, 60, folder=tmp_path / "work", timeout=1).code is None
    assert call(os.abort, folder=tmp_path / "work", timeout=30).code == -signal.SIGABRT
