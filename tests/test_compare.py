from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from isovi import Constraint, Penalty, cli, tl
from isovi.cli import tables
from isovi.compare import compare, draw
from isovi.errors import InputError
from isovi.model.objective import Distortion
from isovi.run import Provenance, Run, Settings


def a_run(name: str, distortion: Distortion | None, *, heldout: bool = True, **changes: float | None) -> Run:
    """A run with made-up metrics."""
    values = {**{key: 1.25 + i for i, key in enumerate(tl.METRICS)}, **changes}
    everywhere = {key: value for key, value in values.items() if key != "coordinate_error"}
    metrics: dict[str, Any] = {"train": everywhere, "all": {**everywhere, "morans_i": 0.5}}
    if heldout:
        metrics["heldout"] = values
    return Run(
        settings=Settings(distortion=distortion),
        metrics=metrics,
        provenance=Provenance(sha256=""),
        history=pd.DataFrame(),
        training={},
        folder=Path(name),
    )


def printed(runs: list[Run]) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(tables.metrics(compare(runs), [str(run.settings.distortion) for run in runs]))
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    found = next(line for line in text.splitlines() if name in line)
    return [cell.strip() for cell in found.strip("│").split("│")][1:]


# ---------------------------------------------------------------------------- metrics


def test_a_run_is_compared_once() -> None:
    run = a_run("a", Constraint(0.3))
    with pytest.raises(InputError, match=r"The runs a, a were given\. Each is compared once"):
        compare([run, run])


def test_held_out_metrics_are_side_by_side() -> None:
    runs = [a_run("a", Constraint(0.3)), a_run("b", Penalty(0.0), reconstruction=123.456)]
    table = compare(runs)
    assert table.attrs["spots"] == "held-out"
    assert table.columns.tolist() == ["a", "b"]
    assert table.index.tolist() == [metric.title for metric in tl.METRICS.values()]
    assert table.loc["coordinate error (spacings)"].tolist() == [1.25, 1.25]
    assert table.loc["reconstruction (nats per spot)"].tolist() == [2.25, 123.456]
    assert table.loc["Moran's I"].tolist() == [7.25, 7.25]


def test_all_spots_where_one_run_held_none_out() -> None:
    table = compare([a_run("a", None), a_run("b", None, heldout=False)])
    assert table.attrs["spots"] == "all"
    assert "coordinate error (spacings)" not in table.index
    assert table.loc["Moran's I"].tolist() == [0.5, 0.5]


def test_a_metric_that_some_run_lacks_is_left_out() -> None:
    older = a_run("a", None)
    del older.metrics["heldout"]["anisotropy"]
    table = compare([older, a_run("b", None)])
    assert len(table) == len(tl.METRICS) - 1
    assert tl.METRICS["anisotropy"].title not in table.index


def test_a_run_in_memory_is_named_by_its_id() -> None:
    run = a_run("a", None)
    run.folder = None
    assert compare([run]).columns.tolist() == [run.id]


# ---------------------------------------------------------------------------- on a terminal


def test_the_table_shows_names_distortions_and_numbers() -> None:
    text = printed([a_run("a", Constraint(0.3)), a_run("b", Penalty(0.0), reconstruction=123.456)])
    assert "Held-out spots" in text
    header = next(line for line in text.splitlines() if str(Constraint(0.3)) in line)
    assert header.index("constraint 0.3") < header.index(str(Penalty(0.0)))
    assert row(text, "reconstruction") == ["2.25", "123.5"]
    assert "All spots" in printed([a_run("a", None, heldout=False)])


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_metric_that_is_nan_is_a_dash(missing: float | None) -> None:
    assert row(printed([a_run("a", None, spearman_distance=missing)]), "Spearman") == ["-"]


def test_a_folder_named_like_markup_is_shown_as_it_is() -> None:
    assert "run[red]" in printed([a_run("run[red]", None)])


# ---------------------------------------------------------------------------- the plot


def test_latents_are_drawn_of_the_same_spots_only(run: Any, tmp_path: Path) -> None:
    draw([run.run, Run.read(run.out)], tmp_path / "latents.png")
    assert (tmp_path / "latents.png").read_bytes().startswith(b"\x89PNG")
    other = Run.read(run.out)
    other.adata.obs["isovi_split"] = "train"
    with pytest.raises(InputError, match="held out different spots"):
        draw([run.run, other], tmp_path / "refused.png")
    assert not (tmp_path / "refused.png").exists()


# ---------------------------------------------------------------------------- the command


@pytest.fixture
def folders(run: Any, tmp_path: Path) -> list[Path]:
    """Two copies of a run, of which the second reconstructs worse."""
    for name in ("b", "a"):
        shutil.copytree(run.out, tmp_path / name)
    metrics = run.json("metrics.json")
    metrics["heldout"]["reconstruction"] = 987.6
    (tmp_path / "a" / "metrics.json").write_text(json.dumps(metrics))
    return [tmp_path / "b", tmp_path / "a"]


def isovi(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)], env={"COLUMNS": "400"})


def test_the_command_line_prints_metrics_and_plots_run_by_run(run: Any, folders: list[Path]) -> None:
    result = isovi(*folders)
    assert result.exit_code == 0, result.output
    expected = [f"{run.metrics['heldout']['reconstruction']:.4g}", "987.6"]
    assert row(result.stdout, "reconstruction") == expected
    plots = [
        str(folder / "figures" / f"{name}.png")
        for folder in folders
        for name in ("domains", "history", "latent", "shepard")
    ]
    assert [line for line in result.stdout.splitlines() if line.endswith(".png")] == plots


def test_the_command_line_draws_latents(folders: list[Path], tmp_path: Path) -> None:
    result = isovi(*folders, "--save", tmp_path / "latents.png")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == str(tmp_path / "latents.png")
    assert (tmp_path / "latents.png").is_file()


def test_the_command_line_refuses_a_folder_without_a_run(folders: list[Path]) -> None:
    (folders[1] / "metrics.json").unlink()
    result = isovi(*folders)
    assert result.exit_code == 2
    assert "holds no metrics.json" in result.stderr
