from __future__ import annotations

import json
import os
import shlex
import signal
import threading
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

from isovi import (
    AllPairs,
    Constraint,
    InputError,
    IsoviWarning,
    Neighbors,
    OutputError,
    files,
    interrupts,
    pipeline,
    pl,
    tl,
)
from isovi.cli import app, tables
from isovi.data.io import Source
from isovi.progress import Progress, Silent
from isovi.run import Settings
from isovi.simulate import simulate
from isovi.spots import HELDOUT, TRAIN, VALIDATION
from isovi.tune import Tuned, tune
from isovi.tune.result import name_of, nondominated, summarise
from isovi.tune.search import SearchAttempt, to_try
from isovi.tune.trial import VALIDATION_SHARE, run_trial, with_more_validation

SETTINGS = Settings(holdout=0.2, max_epochs=2)
SMALL: dict[str, Any] = {"targets": (0.2, 0.4), "n_latents": (3,), "pairs": (AllPairs(),)}


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tissue") / "tissue.h5ad"
    simulate("layers", n_obs=100, n_genes=20, seed=0).write_h5ad(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def ended(validation: tuple[float, float], heldout: tuple[float, float] = (9.0, 9.0)) -> dict[str, Any]:
    """What a trial returns: reconstruction and coordinate error of each part."""
    names = ("reconstruction", "coordinate_error", "spearman_distance")
    parts = {VALIDATION: validation, HELDOUT: heldout}
    return {"epochs": 2, **{part: dict(zip(names, (*two, 0.5), strict=True)) for part, two in parts.items()}}


def tried(*targets: float) -> dict[str, Settings]:
    return to_try(SETTINGS, targets, (5,), (AllPairs(),), None)


def choose(*results: Any) -> Tuned:
    """Of settings with targets 0.1, 0.2, ... and these results."""
    settings = tried(*(0.1 * (1 + i) for i in range(len(results))))
    return summarise(settings, dict(zip(settings, results, strict=True)))


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Another way to run trials, instead of on Ray."""
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    return lambda run: monkeypatch.setattr("isovi.tune.workers.run_trials", run)


# ---------------------------------------------------------------------------- settings


def test_all_combinations_are_tried_unless_fewer_are_asked_for() -> None:
    values = ((0.1, 0.2, 0.1), (3, 5), (AllPairs(), Neighbors(6)))
    settings = to_try(SETTINGS, *values, None)
    assert len(settings) == len(set(settings.values())) == 8
    few = to_try(SETTINGS, *values, 3)
    assert len(few) == 3 and few.items() <= settings.items()
    assert to_try(SETTINGS, *values, 3) == few  # by the seed


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"targets": (1.5,)}, "1.5"),
        ({"n_latents": (0,)}, "n_latent=0"),
        ({"targets": ()}, "targets"),
        ({"n_trials": 0}, "n_trials=0"),
        ({"jobs": 0}, "jobs=0"),
    ],
)
def test_impossible_settings_are_refused(tissue: Path, out: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tune(tissue, out, SETTINGS, **wrong)
    assert not list(out.parent.iterdir())


# ---------------------------------------------------------------------------- choice


@given(hnp.arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(0, 10)))
def test_the_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    front = nondominated(points[:, 0], points[:, 1])
    for row, kept in zip(points, front, strict=True):
        beaten = any((other <= row).all() and (other < row).any() for other in points)
        assert kept == (not beaten)


def test_the_recommended_is_on_the_front_and_costs_little_likelihood() -> None:
    best_position_too_dear = ended((102.0, 1.0))
    tuned = choose(best_position_too_dear, ended((100.9, 2.0)), ended((100.0, 3.0)), ended((100.5, 3.5)))
    assert tuned.table.index[tuned.table["recommended"]].tolist() == ["target 0.2, 5 latent, all"]
    assert tuned.table["pareto"].tolist() == [True, True, True, False]
    assert tuned.recommended == replace(SETTINGS, distortion=Constraint(0.2), n_latent=5)


def test_held_out_metrics_take_no_part_in_the_choice_and_are_those_of_the_front_only() -> None:
    good = choose(ended((100.0, 2.0)), ended((101.0, 3.0), heldout=(1.0, 0.1)))
    bad = choose(ended((100.0, 2.0)), ended((101.0, 3.0), heldout=(900.0, 90.0)))
    pd.testing.assert_frame_equal(good.table, bad.table)
    assert good.table["heldout_reconstruction"].isna().tolist() == [False, True]


def test_a_failed_trial_is_said_and_the_others_count() -> None:
    with pytest.warns(IsoviWarning, match=r"target 0.2.*out of memory"):
        tuned = choose(ended((1.0, 1.0)), "out of memory")
    assert len(tuned.table) == len(tuned.failed) == 1
    with pytest.raises(InputError, match="All 1 trials failed"):
        choose("out of memory")


# ---------------------------------------------------------------------------- a search


def test_held_out_spots_are_those_of_the_fit_and_more_are_for_validation(tissue: Path) -> None:
    spots = pipeline.split(files.read(Source(tissue), SETTINGS, 0, Silent()), SETTINGS)
    wider = with_more_validation(spots, seed=0)
    assert ((wider.split == HELDOUT) == (spots.split == HELDOUT)).all()
    others = wider.split[wider.split != HELDOUT]
    assert set(others) == {TRAIN, VALIDATION}
    assert (others == VALIDATION).sum() == round(VALIDATION_SHARE * len(others))


def test_a_trial_measures_known_metrics_and_leaves_nothing(tissue: Path, tmp_path: Path) -> None:
    found = run_trial(Source(tissue), replace(SETTINGS, n_latent=3), 0, tmp_path / "trial")
    assert set(found) == {"epochs", VALIDATION, HELDOUT} and found["epochs"] == 2
    for part in (VALIDATION, HELDOUT):
        assert set(found[part]) <= set(tl.METRICS)
        assert np.isfinite(list(found[part].values())).all()
    assert not list(tmp_path.iterdir())


def test_a_search_writes_table_plot_and_record(tissue: Path, out: Path, trials: Any) -> None:
    trials(
        lambda tried, source, min_counts, folder, **_: {
            name: run_trial(source, one, min_counts, folder / "one") for name, one in tried.items()
        }
    )
    tuned = tune(tissue, out, SETTINGS, **SMALL, call="called so")
    assert {file.name for file in out.iterdir()} == {"tune.csv", "pareto.png", "run.json"}
    assert [file.name for file in out.parent.iterdir()] == ["out"]
    again = pd.read_csv(out / "tune.csv", index_col="setting")
    assert again["reconstruction"].to_numpy() == pytest.approx(tuned.table["reconstruction"].to_numpy())
    assert tuned.table["pareto"].any() and tuned.table["recommended"].sum() == 1
    record = json.loads((out / "run.json").read_text())
    assert Settings.from_data(record["recommended"]) == tuned.recommended
    settings = [Settings.from_data(one) for one in record["tried"]]
    assert [name_of(one) for one in settings] == tuned.table.index.tolist()
    assert record["schema"] == 1 and record["provenance"]["call"] == "called so"


def test_nothing_is_thrown_away_unasked(tissue: Path, out: Path, trials: Any) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    trials(stopped)
    told, kept = Told(), out.with_name("out.partial.trials")
    with pytest.raises(KeyboardInterrupt):
        tune(tissue, out, SETTINGS, **SMALL, progress=told)
    assert told.lines[-1] == f"Stopped. Pass resume=True to resume the search from {kept}"
    assert kept.is_dir() and not out.exists()
    with pytest.raises(OutputError, match=r"unfinished search.*resume=True"):
        tune(tissue, out, SETTINGS, **SMALL)
    with pytest.raises(InputError, match=r"unfinished search.*another one: tried was"):
        tune(tissue, out, SETTINGS, **{**SMALL, "targets": (0.5,)}, resume=True)
    trials(lambda tried, *_, **__: {name: ended((1.0, 1.0)) for name in tried})
    tune(tissue, out, SETTINGS, **SMALL, resume=True)
    assert out.is_dir() and not kept.exists()


def test_an_unfinished_search_is_replaced_when_forced(tissue: Path, out: Path, trials: Any) -> None:
    old = SearchAttempt.of(out)
    old.checkpoint.mkdir()
    (old.checkpoint / "training").touch()
    trials(
        lambda tried, _, __, folder, **___: {
            name: ended((len(list(folder.iterdir())), 1.0)) for name in tried
        }
    )
    tuned = tune(tissue, out, SETTINGS, **SMALL, force=True)
    assert tuned.table["reconstruction"].tolist() == [1, 1], "only what the search is about"


@pytest.mark.usefixtures("trials")
def test_a_search_must_hold_spots_out(tissue: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"holdout=0\.0 was given, which leaves no held-out spots"):
        tune(tissue, out, replace(SETTINGS, holdout=0.0))
    assert not list(out.parent.iterdir())


@pytest.mark.usefixtures("trials")
def test_an_interrupted_search_has_trials_of_which_ray_knows_nothing() -> None:
    from isovi.tune.workers import outcomes

    done, failed = {"name": "done"}, {"name": "failed"}
    unbegun = SimpleNamespace(config=None, error=None, metrics={"trial_id": "1"})
    begun = SimpleNamespace(config={"name": "begun"}, error=None, metrics={"trial_id": "2"})
    results = [
        SimpleNamespace(config=done, error=None, metrics={**ended((1.0, 2.0)), "config": done}),
        SimpleNamespace(config=failed, error=ValueError("long\nout of memory"), metrics={}),
    ]
    assert outcomes([unbegun, *results, begun]) == {"done": ended((1.0, 2.0)), "failed": "out of memory"}
    with pytest.raises(ValueError, match="lost"):
        outcomes([SimpleNamespace(config=None, error=ValueError("lost"), metrics={})])


def test_what_a_trial_returned_is_kept_and_checked(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    from isovi.tune.workers import keep_result, kept_result

    found, name = ended((0.1, np.nan)), "target 0.2, 3 latent, all"
    assert kept_result(name, tmp_path) is None
    keep_result(found, name, tmp_path)
    np.testing.assert_equal(kept_result(name, tmp_path), found)
    [file] = tmp_path.iterdir()
    whole = file.read_text()
    for content in (
        "",
        whole[:30],
        whole.replace("0.1", "0.2"),
        "[]",
        "{}",
        '{"result": null, "checksum": 1}',
    ):
        file.write_text(content)
        with pytest.warns(IsoviWarning, match="is damaged: this trial is run again"):
            assert kept_result(name, tmp_path) is None
        assert not file.exists()
    file.symlink_to("nothing")
    with pytest.warns(IsoviWarning, match="is damaged"):
        assert kept_result(name, tmp_path) is None


def test_a_search_whose_trials_have_ended_starts_no_ray(tmp_path: Path, monkeypatch: Any) -> None:
    """Ray's own state is a pickle, which executes what it holds: it is never read."""
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    from isovi.tune import workers

    monkeypatch.setattr(workers, "cluster", lambda *_, **__: pytest.fail("Ray was started"))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "tuner.pkl").write_bytes(b"cos\n_exit\n(I1\ntR.")
    results = {name: ended((1.0 + i, 1.0)) for i, name in enumerate(tried(0.1, 0.2))}
    for name, result in results.items():
        workers.keep_result(result, name, tmp_path)
    given = {"jobs": 1, "progress": Silent()}
    assert workers.run_trials(tried(0.1, 0.2), Source(tmp_path), 0, tmp_path, **given) == results


def test_a_temporary_folder_with_too_long_a_path_for_ray_is_said(monkeypatch: Any) -> None:
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    from isovi.tune import cluster

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x")

    monkeypatch.setenv("RAY_TMPDIR", "/a/long/path")
    monkeypatch.setattr(cluster.ray, "init", fails)
    with (
        pytest.raises(InputError, match=r'temporary folder is "/a/long/path".*RAY_TMPDIR'),
        cluster.cluster(workers=1),
    ):
        pass


@pytest.mark.parametrize("gpus", [-1.0, 1.5])
def test_a_share_of_a_gpu_is_a_share_or_a_whole_number(gpus: float) -> None:
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    from isovi.tune.cluster import cluster

    with (
        pytest.raises(InputError, match=f"{gpus:g} GPUs were asked for. It is a share between 0 and 1"),
        cluster(gpus=gpus),
    ):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("not_in_the_background")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_waiting_for_ray_at_once(number: signal.Signals) -> None:
    ray = pytest.importorskip("ray", reason="the extra tune is not installed")
    from isovi.tune.cluster import cluster

    def waits() -> None:
        sleeping = ray.remote(lambda: time.sleep(600)).remote()
        threading.Timer(1, os.kill, (os.getpid(), number)).start()
        ray.wait([sleeping], timeout=60)
        pytest.fail("the signal was lost")

    with pytest.raises(interrupts.Interrupted) as stopped, interrupts.raised(), cluster(workers=1):
        waits()
    assert stopped.value.signal == number
    assert not ray.is_initialized()


@pytest.mark.slow
def test_two_trials_share_a_gpu_that_the_cluster_says_it_has(tmp_path: Path, monkeypatch: Any) -> None:
    ray = pytest.importorskip("ray", reason="the extra tune is not installed")
    from isovi.tune import workers

    def meets(config: dict[str, Any], folder: Path, **_: Any) -> dict[str, Any]:
        """Write down which GPUs are seen, and wait until the other trial has done so."""
        import os
        import time

        seen = folder / "seen"
        seen.mkdir(exist_ok=True)
        (seen / config["name"]).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        until = time.monotonic() + 120
        while len(list(seen.iterdir())) < 2:
            if time.monotonic() > until:
                raise TimeoutError("the other trial did not run beside this one")
            time.sleep(0.05)
        return {"epochs": 1, "validation": {}, "heldout": {}}

    monkeypatch.setattr(workers, "_work", meets)
    asked = {"jobs": 2, "progress": Silent(), "gpus_per_trial": 0.5}
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        found = workers.run_trials(tried(0.1, 0.2), Source(tmp_path), 0, tmp_path, **asked)
    finally:
        ray.shutdown()
    assert all(result["epochs"] == 1 for result in found.values()) and len(found) == 2
    assert [file.read_text() for file in (tmp_path / "seen").iterdir()] == ["0", "0"]


@pytest.mark.parametrize("when", ["before it was removed", "as it was removed"])
def test_what_a_search_killed_as_it_ended_left_is_removed_when_it_is_resumed(
    when: str, tissue: Path, out: Path, trials: Any
) -> None:
    def killed(attempt: SearchAttempt) -> None:
        if attempt.out.exists():
            if when == "as it was removed":
                for path in attempt.checkpoint.iterdir():
                    path.unlink()
            raise KeyboardInterrupt

    trials(lambda tried, *_, **__: {name: ended((1.0, 1.0)) for name in tried})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchAttempt, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(tissue, out, SETTINGS, **SMALL)
    kept, told = out.with_name("out.partial.trials"), Told()
    assert kept.is_dir() and out.is_dir()
    trials(lambda *_, **__: pytest.fail("a trial was run"))
    again = tune(tissue, out, SETTINGS, **SMALL, resume=True, progress=told)
    assert told.lines == [f"{out} is finished: there is nothing to resume"]
    assert not kept.exists() and again.table["recommended"].sum() == 1
    assert again.recommended in to_try(SETTINGS, **SMALL, n_trials=None).values()


@pytest.mark.slow
def test_ray_resumes_the_trials_that_did_not_end(tissue: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    from isovi.tune.workers import folder_of, run_trials

    settings, trials, told = to_try(SETTINGS, **SMALL, n_trials=None), tmp_path / "trials", Told()
    one, other = settings
    trials.mkdir()
    blocked = folder_of(other, trials)
    blocked.write_text("not a folder")
    first = run_trials(settings, Source(tissue), 0, trials, jobs=1, progress=told)
    assert isinstance(first[other], str) and set(first[one]) == {"epochs", VALIDATION, HELDOUT}
    blocked.unlink()
    second = run_trials(settings, Source(tissue), 0, trials, jobs=1, progress=told)
    assert second[one] == first[one]
    assert np.isfinite(second[other][HELDOUT]["reconstruction"])
    assert told.lines == [f"  trial 1/2: {one}", f"  trial 2/2: {other}"]


# ---------------------------------------------------------------------------- command line


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What fits were asked to do, instead of doing it."""
    calls: list[Any] = []
    monkeypatch.setattr(files, "fit", lambda *given, **options: calls.append((*given, options)))
    return calls


def test_the_command_line_prints_the_front_and_a_fit_that_can_be_typed(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Any] = []

    def search(source: Source, out: Path, settings: Settings, **options: Any) -> Tuned:
        searched.append((source, out, settings, options))
        named = to_try(settings, options["targets"], options["n_latents"], options["pairs"], None)
        return summarise(named, {name: ended((1.0, 1.0), (7.25, 2.0)) for name in named})

    monkeypatch.setattr("isovi.tune.tune", search)
    line = (
        "tune 'my tissue.h5ad' --out tuned --targets 0.25 --n-latents 7 --pairs all+knn:6 "
        "--trials 3 --jobs 2 --section-key slide --seed 4 --max-epochs 9 --min-counts 5 --table t --resume"
    )
    result = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    source, out, settings, options = searched[0]
    assert (source, out) == (Source(Path("my tissue.h5ad"), "t"), Path("tuned"))
    assert settings == Settings(holdout=0.2, section_key="slide", seed=4, max_epochs=9)
    given = {name: options[name] for name in ("n_trials", "jobs", "min_counts", "force", "resume")}
    assert given == {"n_trials": 3, "jobs": 2, "min_counts": 5, "force": False, "resume": True}
    assert "Pareto-optimal" in result.stdout and "1 (7.25)" in result.stdout
    assert f"{tl.METRICS['coordinate_error'].title}" in result.stdout
    command = result.stdout.splitlines()[-1]
    assert CliRunner().invoke(app, shlex.split(command)[1:]).exit_code == 0
    fitted, _, again, others = asked[0]
    assert fitted == source and others["min_counts"] == 5
    assert again == replace(
        settings, distortion=Constraint(0.25), n_latent=7, pairs=AllPairs() | Neighbors(6)
    )


def test_no_word_of_the_table_is_cut_short_on_a_narrow_terminal() -> None:
    terminal = Console(width=80, record=True, file=StringIO())
    settings = to_try(SETTINGS, (0.2,), (100,), (AllPairs() | Neighbors(6),), None)
    terminal.print(tables.tuned(summarise(settings, dict.fromkeys(settings, ended((1000.5, 1.125))))))
    shown = terminal.export_text()
    assert "…" not in shown
    assert {"all+knn:6", "reconstruction", "1000", "1.125", "correlation", "epochs"} <= set(shown.split())


def test_values_that_cannot_be_read_are_named_by_their_option(out: Path) -> None:
    for wrong in (["--n-latents", "5;6"], ["--targets", "low"], ["--pairs", "all,nearest"]):
        result = CliRunner().invoke(app, ["tune", "x.h5ad", "--out", str(out), *wrong])
        assert result.exit_code == 2
        assert (wrong[1].split(",")[-1] if wrong[0] == "--pairs" else " ".join(wrong)) in result.stderr


# ---------------------------------------------------------------------------- plot


def test_the_plot_joins_the_front_and_rings_the_recommended() -> None:
    table = pd.DataFrame(
        {
            "reconstruction": [3.0, 1.0, 2.0],
            "coordinate_error": [1.0, 3.0, 4.0],
            "pareto": [True, True, False],
        },
        index=["a", "b", "c"],
    )
    ax = Figure().add_subplot()
    assert pl.pareto(table, ax=ax) is ax
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[1.0, 3.0], [3.0, 1.0]]
    assert [text.get_text() for text in ax.texts] == ["b", "a"]
    assert len(ax.collections) == 1
    pl.pareto(table.assign(recommended=[True, False, False]), ax=ax)
    assert len(ax.collections) == 3
    with pytest.raises(InputError, match="pareto"):
        pl.pareto(table.drop(columns="pareto"))
