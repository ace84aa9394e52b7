from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
from isovi.compare import compare, distortion_of, draw
from isovi.errors import InputError
from isovi.model.objective import Distortion
from isovi.run import Provenance, Run, Settings


def a_run(
    name: str,
    distortion: Distortion | None,
    *,
    heldout: bool = True,
    sha256: str = "",
    source: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **changes: float | None,
) -> Run:
    """A run with made-up metrics."""
    values = {**{key: 1.25 + i for i, key in enumerate(tl.METRICS)}, **changes}
    everywhere = {key: value for key, value in values.items() if key != "coordinate_error"}
    metrics: dict[str, Any] = {"train": everywhere, "all": {**everywhere, "morans_i": 0.5}}
    if heldout:
        metrics["heldout"] = values
    return Run(
        settings=Settings(distortion=distortion, **(settings or {})),
        metrics=metrics,
        provenance=Provenance(sha256=sha256, source=source or {}),
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


def test_runs_of_one_name_in_different_folders_are_told_apart() -> None:
    runs = [a_run("results/first/run", None), a_run("results/second/run", None)]
    assert compare(runs).columns.tolist() == ["first/run", "second/run"]


def test_a_run_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="run was given more than once"):
        compare([a_run("run", None), a_run("run", None)])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"sha256": "another"}, "their inputs are different files"),
        ({"source": {"path": "b.h5ad", "min_counts": 20}}, "min_counts is None and 20"),
        ({"settings": {"holdout": 0.5}}, "holdout is 0.1 and 0.5"),
        ({"settings": {"seed": 3}}, "seed is 0 and 3"),
        ({"settings": {"section_key": "slide", "n_top_genes": 50}}, "slide; n_top_genes is 2000 and 50"),
    ],
)
def test_runs_of_other_spots_or_genes_are_refused_unless_asked_for(other: dict, words: str) -> None:
    runs = [a_run("a", None, source={"path": "a.h5ad"}), a_run("b", None, **other)]
    with pytest.raises(InputError, match=f"The runs a and b differ: .*{words}") as refused:
        compare(runs)
    assert "allow_different=True" in str(refused.value)
    assert compare(runs, allow_different=True).columns.tolist() == ["a", "b"]


def test_the_numbers_of_spots_tell_splits_apart_as_well() -> None:
    runs = [a_run("a", None), a_run("b", None)]
    runs[0].metrics["n_heldout"], runs[1].metrics["n_heldout"] = 30, 31
    with pytest.raises(InputError, match="they have 30 and 31 held-out spots"):
        compare(runs)


def test_a_copy_of_the_input_in_another_place_is_the_same_input() -> None:
    runs = [a_run(name, None, source={"path": f"{name}.h5ad"}) for name in "ab"]
    assert compare(runs).columns.tolist() == ["a", "b"]


def test_the_agreement_of_domains_with_labels_is_shown_where_all_have_it() -> None:
    runs = [a_run("a", None), a_run("b", None)]
    titles = [f"{name} of domains with labels, all spots" for name in ("ARI", "NMI")]
    runs[0].metrics |= {"ari": 0.5, "nmi": 0.625}
    assert not set(titles) & set(compare(runs).index)
    runs[1].metrics |= {"ari": 0.25, "nmi": 0.375}
    assert compare(runs).loc[titles].to_numpy().tolist() == [[0.5, 0.25], [0.625, 0.375]]


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


@pytest.mark.parametrize("width", [80, 120])
def test_names_are_never_cut(width: int) -> None:
    runs = [a_run(f"results/constraint_of_{number}_and_long", Constraint(0.3)) for number in range(7)]
    table, beside = compare(runs), tables.metrics_beside(width)
    for start in range(0, len(runs), beside):
        shown = table.iloc[:, start : start + beside]
        console = Console(file=StringIO(), width=width)
        console.print(tables.metrics(shown, ["constraint 0.3"] * shown.shape[1]))
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
        header = [line.strip("┃").split("┃")[1:] for line in lines if line.startswith("┃")]
        for name, parts in zip(shown.columns, zip(*header, strict=True), strict=True):
            assert "".join(map(str.strip, parts)).startswith(name)  # folded: parts are beneath each other


def test_what_a_run_asked_of_distances_is_said_in_words() -> None:
    runs = [a_run("a", asked) for asked in (Constraint(0.3), Penalty(2.0), Penalty(0.0), None)]
    words = ["constraint 0.3", "penalty 2", "no distance term", "the backbone itself"]
    assert [distortion_of(run) for run in runs] == words


def test_a_folder_named_like_markup_is_shown_as_it_is() -> None:
    assert "run[red]" in printed([a_run("run[red]", None)])


# ---------------------------------------------------------------------------- the plot


def test_latents_are_drawn_of_the_same_spots_only(run: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.out, tmp_path / "copy"))
    draw([run.run, Run.read(copy)], tmp_path / "latents.png")
    assert (tmp_path / "latents.png").read_bytes().startswith(b"\x89PNG")
    other = Run.read(copy)
    other.adata.obs["isovi_split"] = "train"
    with pytest.raises(InputError, match="held out different spots"):
        draw([run.run, other], tmp_path / "refused.png")
    assert not (tmp_path / "refused.png").exists()


# ---------------------------------------------------------------------------- the command


@pytest.fixture
def folders(run: Any, tmp_path: Path, unsealed: Callable[[Path], Path]) -> list[Path]:
    """Two copies of a run, of which the second reconstructs worse."""
    for name in ("b", "a"):
        shutil.copytree(run.out, tmp_path / name)
    metrics = run.json("metrics.json")
    metrics["heldout"]["reconstruction"] = 987.6
    (unsealed(tmp_path / "a") / "metrics.json").write_text(json.dumps(metrics))
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


def test_the_command_line_refuses_runs_of_other_data_unless_asked_to(
    folders: list[Path], unsealed: Callable[[Path], Path]
) -> None:
    record = json.loads((unsealed(folders[0]) / "run.json").read_text())
    record["provenance"]["sha256"] = "0" * 64
    (folders[0] / "run.json").write_text(json.dumps(record))
    result = isovi(*folders)
    assert result.exit_code == 2 and "their inputs are different files" in result.stderr
    assert "pass --allow-different to compare them anyway" in result.stderr
    assert isovi(*folders, "--allow-different").exit_code == 0


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
