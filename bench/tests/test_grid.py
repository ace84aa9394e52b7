from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isovi.errors import InputError
from isovi_bench import grid as module
from isovi_bench.datasets import PAPER, Facts
from isovi_bench.grid import Grid, jobs_of, make_known, parse_grid, read_grid
from isovi_bench.results import APART
from isovi_bench.task import METHODS, Method, find

ADAPTER = Path(__file__).with_name("tiny_adapter.py")
PRESETS = Path(module.__file__).parent / "presets"
LARGE, SMALL = Facts("l", 900, (), ()), Facts("s", 100, ("A", "B"), ("p", "q"))
FACTS = {"large": LARGE, "small": SMALL}


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """Two methods, and those that a test makes known, for this test only."""
    make_known(())  # those of the package are imported once, and stay
    before = dict(METHODS)
    for name, sees in (("blind", False), ("seeing", True)):
        METHODS[name] = Method(name, lambda task: task, sees_positions=sees)
    imported = set(sys.modules)
    yield
    for name in set(sys.modules) - imported:
        if name.startswith("isovi_adapter_"):
            del sys.modules[name]
    METHODS.clear()
    METHODS.update(before)


def content(**changes: Any) -> dict[str, Any]:
    datasets = [{"name": name, "path": f"{name}.h5ad"} for name in FACTS]
    return {"datasets": datasets, "methods": ["blind", "seeing"], **changes}


def grid(**changes: Any) -> Grid:
    return parse_grid(content(**changes), "grid.yaml")


# ---------------------------------------------------------------------------- reading


def test_a_method_is_a_name_or_a_name_with_settings() -> None:
    first, second = grid(methods=["pca", {"name": "pca", "variant": "v", "settings": {"a": 1}}]).methods
    assert (first.name, first.shown, first.settings) == ("pca", "pca", {})
    assert (second.name, second.shown, second.settings) == ("pca", "v", {"a": 1})


@pytest.mark.parametrize("share", [0.25, "0.25", "0.250"])
def test_a_share_is_the_same_however_it_is_written(share: object) -> None:
    assert grid(splits=[share]).splits == ("0.25",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": [1]}, r"has the key seed\. The keys are datasets, methods"),
        ({"datasets": []}, r"datasets is \[\]"),
        ({"datasets": [{"path": "a"}]}, r"lacks datasets\.0\.name\. .* Add it\. The keys are name, path"),
        ({"datasets": [{"name": "a"}]}, r"datasets\.0 .*exactly one of path, visium and simulate"),
        ({"datasets": [{"name": "a", "path": "a", "visium": "b"}]}, "exactly one"),
        ({"datasets": [{"name": "a", "path": "a", "labels": "b"}]}, r"datasets\.0\.labels.*label_key"),
        ({"methods": ["pca", "pca"]}, "pca is there more than once"),
        ({"methods": [{"variant": "v"}]}, r"lacks methods\.0\.name"),
        ({"methods": [{"name": "pca", "colour": 1}]}, r"methods\.0\.colour\. The keys are name, variant"),
        ({"splits": ["half"]}, r"splits\.0 is 'half'\. A split is all, a share"),
        ({"splits": [1.5]}, r"splits\.0 is 1\.5"),
        ({"splits": ["molecules"]}, r"molecules: with a share"),
        ({"seeds": [-1]}, r"seeds\.0 is -1"),
        ({"seeds": [-1], "splits": ["half"]}, r"More errors: 1"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"metrics": ["accuracy"]}, r"metrics is \['accuracy'\]\. .*the metrics are coordinate_error"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        grid(**changes)
    assert str(caught.value).startswith("grid.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("- a\n- b", "the grid"), ("a: [", "is not YAML"), ("", "the grid")]
)
def test_what_is_no_grid_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_grid(tmp_path / "grid.yaml")
    with pytest.raises(InputError, match="could not be read"):
        read_grid(tmp_path / "nothing.yaml")


def test_paths_are_relative_to_the_data_or_to_the_grid(tmp_path: Path) -> None:
    given = grid(adapters=["my.py", "my.module"])
    assert given.placed(tmp_path, None, tmp_path).datasets[0].path == (str(tmp_path / "large.h5ad"),)
    placed = given.placed(tmp_path, tmp_path / "data", tmp_path)
    assert placed.datasets[0].path == (str(tmp_path / "data" / "large.h5ad"),)
    assert placed.adapters == (str(tmp_path / "my.py"), "my.module")


# ---------------------------------------------------------------------------- jobs


def test_every_cell_is_a_job() -> None:
    jobs, left_out = jobs_of(grid(seeds=[0, 1], splits=["all", 0.25]), FACTS, {})
    assert len({job.key for job in jobs}) == len(jobs) == 2 * 2 * 2 * 2
    assert not left_out
    assert {job.n_top_genes for job in jobs} == {2000}


def test_trials_come_one_after_the_other_and_small_data_first() -> None:
    jobs, _ = jobs_of(grid(seeds=[0, 1], shuffled=True), FACTS, {})
    order = [(job.seed, job.shuffled, job.dataset.name) for job in jobs if job.method == "seeing"]
    assert order == [
        (seed, shuffled, name) for seed in (0, 1) for shuffled in (False, True) for name in ("small", "large")
    ]


def test_only_methods_that_see_positions_have_a_control() -> None:
    jobs, left_out = jobs_of(grid(seeds=[0, 1], shuffled=[1]), FACTS, {})
    assert {(job.method, job.seed) for job in jobs if job.shuffled} == {("seeing", 1)}
    assert [(one.what, one.why) for one in left_out] == [("blind, shuffled", "they see no positions")]


def test_a_method_may_have_seeds_of_its_own() -> None:
    jobs, _ = jobs_of(grid(seeds=[0, 1, 2], methods=["blind", {"name": "seeing", "seeds": [7]}]), FACTS, {})
    assert {job.seed for job in jobs if job.method == "seeing"} == {7}


def test_whole_sections_and_donors_are_held_out_in_turn() -> None:
    jobs, left_out = jobs_of(grid(methods=["blind"], splits=["section", "donor:q", "donor:z"]), FACTS, {})
    found = {(job.dataset.name, job.split) for job in jobs}
    assert found == {("small", "section:A"), ("small", "section:B"), ("small", "donor:q")}
    said = [f"{one.what}: {one.why}" for one in left_out]
    assert "large, split section: it has fewer than two sections" in said
    assert "small, split donor:z: it has no such donor" in said


def test_a_method_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="no method 'pcs'"):
        jobs_of(grid(methods=["pcs"]), FACTS, {})


def test_two_names_of_one_job_are_refused() -> None:
    with pytest.raises(InputError, match="same job twice"):
        jobs_of(grid(methods=["blind", {"name": "blind", "variant": "v"}]), FACTS, {})
    with pytest.raises(InputError, match="same job twice"):
        jobs_of(grid(), {"large": LARGE, "small": LARGE}, {})


# ---------------------------------------------------------------------------- adapters


def test_an_adapter_makes_methods_known_and_its_digest_is_in_their_jobs(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ADAPTER.read_text())
    digests = make_known((str(file),))
    assert set(digests) == {"noted", "positions", "fails", "meets", "dies"}
    asked = grid(methods=["positions", "blind"])
    before = jobs_of(asked, FACTS, digests)[0]
    after = jobs_of(asked, FACTS, {**digests, "positions": "changed"})[0]
    same = [one.key == other.key for one, other in zip(before, after, strict=True)]
    assert same == [job.method == "blind" for job in before]


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", "ZeroDivisionError"), ("a = 1", "registers no method"), (None, "No such file")],
)
def test_an_adapter_that_does_not_work_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "broken.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=words):
        make_known((str(file),))


def test_an_adapter_may_be_a_module() -> None:
    with pytest.raises(InputError, match="No module named 'nowhere'"):
        make_known(("nowhere.at.all",))
    with pytest.raises(InputError, match="registers no method"):
        make_known(("isovi.errors",))


# ---------------------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("name", ["paper", "quick", "small"])
def test_presets_are_grids(name: str) -> None:
    assert read_grid(PRESETS / f"{name}.yaml").methods


def test_the_papers_preset_is_its_experiment() -> None:
    paper = read_grid(PRESETS / "paper.yaml")
    assert tuple(dataset.visium for dataset in paper.datasets) == PAPER
    assert len(paper.seeds) == 5 and set(paper.splits) == {"all", "0.25"}
    swept = {entry.settings.get("penalty") for entry in paper.methods if entry.name == "isoscvi"}
    assert len(swept - {None}) >= 6


GRIDS = sorted((Path(__file__).parents[1] / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_grids_of_the_documentation_name_no_folder_and_all_make_jobs(path: Path) -> None:
    given = read_grid(path)
    assert all("/" not in file for dataset in given.datasets for file in dataset.path or ())
    assert not given.metrics and given.keep_latents
    facts = {dataset.name: replace(SMALL, digest=dataset.name) for dataset in given.datasets}
    adapters = make_known(given.placed(path.parent, None, path.parent).adapters)
    jobs, left_out = jobs_of(given, facts, adapters)
    assert len({job.key for job in jobs}) == len(jobs) >= 4
    assert all("they see no positions" in one.why for one in left_out)


def test_both_grids_share_their_jobs(repository: Path) -> None:
    real, sensitivity = (
        read_grid(repository / "bench" / "grids" / f"{name}.yaml") for name in ("real", "sensitivity")
    )
    assert set(sensitivity.datasets) <= set(real.datasets)
    shared = [entry.shown for entry in sensitivity.methods if "-penalty-" not in entry.shown]
    settings = {entry.shown: entry.settings for entry in real.methods}
    named = [name for name in shared if "-target-" not in name]
    of_sensitivity = {entry.shown: entry.settings for entry in sensitivity.methods}
    assert {name: settings[name] for name in named} == {name: of_sensitivity[name] for name in named}


def test_a_share_of_molecules_is_a_split_written_in_one_way() -> None:
    assert grid(splits=["molecules:0.10"]).splits == ("molecules:0.1",)
    jobs, left_out = jobs_of(grid(methods=["blind"], splits=["molecules:0.1"]), FACTS, {})
    assert {job.split for job in jobs} == {"molecules:0.1"} and not left_out


RERUN = sorted((Path(__file__).parents[1] / "grids" / "rerun").glob("*.yaml"))


@pytest.mark.parametrize("path", RERUN, ids=[path.stem for path in RERUN])
def test_the_grids_of_the_rerun_name_methods_that_there_are(path: Path) -> None:
    make_known(())
    for entry in read_grid(path).methods:
        assert find(entry.name).reference or entry.name in ("coordinates", "mean-profile")


def test_the_sections_that_took_no_part_are_in_the_rerun_by_these_names() -> None:
    named = {dataset.name for path in RERUN for dataset in read_grid(path).datasets}
    assert set(APART) <= named
