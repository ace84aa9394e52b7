from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from isovi.workflow import choice, search, tune
from isovi.workflow.fit import FitOptions
from isovi.workflow.trial import VALIDATION_SHARE, Figures, Setting, try_setting, widened
from isovi.workflow.tune import TuneOptions, settings_of, values_of
from matplotlib.figure import Figure
from rich.console import Console

from isovi import InputError, IsoviWarning, OutputError, pl
from isovi.cli import app
from isovi.simulate import simulate
from isovi.spots import HELDOUT, TRAIN, VALIDATION


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tissue") / "tissue.h5ad"
    simulate("layers", n_obs=100, n_genes=20, seed=0).write_h5ad(path)
    return path


@pytest.fixture
def asked(tissue: Path, tmp_path: Path) -> TuneOptions:
    """A search of two small settings."""
    options = FitOptions(tissue, tmp_path / "out", holdout="0.2", max_epochs=2)
    return TuneOptions(options, targets=(0.2, 0.4), n_latents=(3,), pairs=("all",))


def figures(reconstruction: float, coordinate_error: float) -> dict[str, float]:
    return asdict(Figures(reconstruction, coordinate_error, 0.5))


def ended(validation: tuple[float, float], heldout: tuple[float, float] = (9.0, 9.0)) -> dict[str, Any]:
    return {"epochs": 2, VALIDATION: figures(*validation), HELDOUT: figures(*heldout)}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials one after the other, without Ray."""

    def run(settings: list[Setting], options: FitOptions, trials: Path, **_: Any) -> dict[Setting, Any]:
        return {setting: try_setting(setting, options, trials / "one") for setting in settings}

    monkeypatch.setattr(tune, "search", run)


# ---------------------------------------------------------------------------- settings


def test_all_combinations_are_tried_unless_fewer_are_asked_for(asked: TuneOptions) -> None:
    wide = replace(asked, targets=(0.1, 0.2, 0.1), n_latents=(3, 5), pairs=("all", "knn:6"))
    settings = settings_of(wide)
    assert len(settings) == len(set(settings)) == 8
    few = settings_of(replace(wide, n_trials=3))
    assert len(few) == 3 and set(few) <= set(settings)
    assert settings_of(replace(wide, n_trials=3)) == few  # by the seed


@pytest.mark.parametrize(
    "wrong",
    [{"targets": (1.5,)}, {"n_latents": (0,)}, {"pairs": ("nearest",)}, {"targets": ()}, {"jobs": 0}],
)
def test_impossible_settings_are_refused(asked: TuneOptions, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        settings_of(replace(asked, **wrong))


def test_values_are_read_with_commas_between() -> None:
    assert values_of(" 0.1, 0.2,", float, "--targets") == (0.1, 0.2)
    with pytest.raises(InputError, match="--n-latents 5;6"):
        values_of("5;6", int, "--n-latents")


# ---------------------------------------------------------------------------- choice


@given(hnp.arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(0, 10)))
def test_the_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    front = choice.nondominated(points[:, 0], points[:, 1])
    for row, kept in zip(points, front, strict=True):
        beaten = any((other <= row).all() and (other < row).any() for other in points)
        assert kept == (not beaten)


def test_the_recommended_is_on_the_front_and_costs_little_likelihood(asked: TuneOptions) -> None:
    found = {
        Setting(0.1, 5, "all"): ended((102.0, 1.0)),  # best position, too dear
        Setting(0.2, 5, "all"): ended((100.9, 2.0)),
        Setting(0.3, 5, "all"): ended((100.0, 3.0)),
        Setting(0.4, 5, "all"): ended((100.5, 3.5)),
    }
    tuned = choice.summarise(found, asked.fit)
    assert tuned.table.index[tuned.table["recommended"]].tolist() == ["target 0.2, 5 latent, all"]
    assert tuned.table["pareto"].tolist() == [True, True, True, False]


def test_held_out_figures_take_no_part_in_the_choice_and_are_told_of_the_front_only(
    asked: TuneOptions,
) -> None:
    def found(heldout: tuple[float, float]) -> choice.Tuned:
        values = {
            Setting(0.2, 5, "all"): ended((100.0, 2.0)),
            Setting(0.3, 5, "all"): ended((101.0, 3.0), heldout),
        }
        return choice.summarise(values, asked.fit)

    good, bad = found((1.0, 0.1)), found((900.0, 90.0))
    pd.testing.assert_frame_equal(good.table, bad.table)
    assert good.table["heldout_reconstruction"].isna().tolist() == [False, True]


def test_a_failed_trial_is_said_and_the_others_count(asked: TuneOptions) -> None:
    with pytest.warns(IsoviWarning, match=r"target 0.3.*out of memory"):
        tuned = choice.summarise(
            {Setting(0.2, 5, "all"): ended((1.0, 1.0)), Setting(0.3, 5, "all"): "out of memory"}, asked.fit
        )
    assert len(tuned.table) == len(tuned.failed) == 1
    with pytest.raises(InputError, match="All 1 trials failed"):
        choice.summarise({Setting(0.3, 5, "all"): "out of memory"}, asked.fit)


def test_the_command_is_one_that_the_command_line_takes(asked: TuneOptions, monkeypatch: Any) -> None:
    from isovi.workflow import fit as workflow
    from typer.testing import CliRunner

    options = replace(asked.fit, section_key="slide", seed=4)
    tuned = choice.summarise({Setting(0.25, 7, "all+knn:6"): ended((1.0, 1.0))}, options)
    given: list[FitOptions] = []
    monkeypatch.setattr(workflow, "fit", lambda one, _: given.append(one))
    assert CliRunner().invoke(app, shlex.split(tuned.command)[1:]).exit_code == 0
    (fitted,) = given
    assert (fitted.distortion.target, fitted.n_latent) == (0.25, 7)
    assert (fitted.section_key, fitted.seed, fitted.holdout, fitted.max_epochs) == ("slide", 4, "0.2", 2)


# ---------------------------------------------------------------------------- a search


def test_held_out_spots_are_those_of_the_fit_and_more_are_for_validation(asked: TuneOptions) -> None:
    placement = tune.fit.place(tune.fit.read(asked.fit, Console(quiet=True)), asked.fit)
    wider = widened(placement, seed=0)
    assert ((wider.split == HELDOUT) == (placement.split == HELDOUT)).all()
    others = wider.split[wider.split != HELDOUT]
    assert set(others) == {TRAIN, VALIDATION}
    assert (others == VALIDATION).sum() == round(VALIDATION_SHARE * len(others))


@pytest.mark.usefixtures("in_this_process")
def test_a_search_writes_table_picture_and_record(asked: TuneOptions) -> None:
    tuned = tune.tune(asked)
    out = asked.fit.out
    assert {file.name for file in out.iterdir()} == {"tune.csv", "pareto.png", "run.json"}
    assert [file.name for file in out.parent.iterdir()] == ["out"]
    again = pd.read_csv(out / "tune.csv", index_col="setting")
    assert again["reconstruction"].to_numpy() == pytest.approx(tuned.table["reconstruction"].to_numpy())
    assert json.loads((out / "run.json").read_text())["recommended"] == tuned.command
    assert tuned.table["pareto"].any() and tuned.table["recommended"].sum() == 1
    shown = Console(width=120, record=True)
    shown.print(choice.table(tuned))
    assert "Pareto" in shown.export_text() and len(choice.words(tuned)) == 3


def test_nothing_is_thrown_away_unasked(asked: TuneOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "search", stopped)
    console = Console(record=True, width=300, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    with pytest.raises(KeyboardInterrupt):
        tune.tune(asked, console)
    assert "--resume goes on" in console.export_text()
    kept = tune.folder_of(asked.fit.out)
    assert kept.is_dir() and not asked.fit.out.exists()
    with pytest.raises(OutputError, match="--resume"):
        tune.tune(asked)
    other = replace(asked, targets=(0.5,), fit=replace(asked.fit, resume=True))
    with pytest.raises(InputError, match="another one"):
        tune.tune(other)
    monkeypatch.setattr(
        tune, "search", lambda settings, *_, **__: {one: ended((1.0, 1.0)) for one in settings}
    )
    tune.tune(replace(asked, fit=replace(asked.fit, resume=True)))
    assert asked.fit.out.is_dir() and not kept.exists()


def test_a_search_must_hold_spots_out(asked: TuneOptions) -> None:
    with pytest.raises(InputError, match="no spot to tell the result on"):
        tune.tune(replace(asked, fit=replace(asked.fit, holdout="0")))


@pytest.mark.slow
def test_ray_goes_on_with_the_trials_that_did_not_end(asked: TuneOptions, tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="the extra tune is not installed")
    settings, trials = settings_of(asked), tmp_path / "trials"
    trials.mkdir()
    blocked = trials / search.name_of(settings[1])
    blocked.write_text("not a folder")
    quiet = Console(quiet=True)
    first = search.search(settings, asked.fit, trials, jobs=1, console=quiet)
    assert isinstance(first[settings[1]], str) and set(first[settings[0]]) == {"epochs", VALIDATION, HELDOUT}
    blocked.unlink()
    second = search.search(settings, replace(asked.fit, resume=True), trials, jobs=1, console=quiet)
    assert second[settings[0]] == first[settings[0]]
    assert np.isfinite(second[settings[1]][HELDOUT]["reconstruction"])


# ---------------------------------------------------------------------------- picture


def test_the_picture_joins_the_front_and_rings_the_recommended() -> None:
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
