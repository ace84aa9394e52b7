from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from isovi_bench import cli, runner
from isovi_bench.runner import RunOptions


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunOptions]:
    """What a comparison was asked to do, instead of doing it."""
    options: list[RunOptions] = []
    monkeypatch.setattr(runner, "run", lambda given, _: options.append(given) or {"done": 1, "failed": 0})
    return options


@pytest.mark.parametrize("verb", ["run", "paper", "quick", "table", "plots", "peers"])
def test_help_names_every_verb_and_says_what_it_does(verb: str) -> None:
    assert verb in bench("--help").stdout
    result = bench(verb, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout and "Example" in result.stdout


def test_every_option_arrives(asked: list[RunOptions]) -> None:
    text = "run grid.yaml --out results --data sections --ray-address auto --workers 3 --retry-failed"
    text += " --gpus-per-job 0.5"
    assert bench(*text.split()).exit_code == 0
    assert bench("run", "grid.yaml", "--out", "results").exit_code == 0
    grid, out = Path("grid.yaml"), Path("results")
    given = [replace(options, command="") for options in asked]
    assert given == [RunOptions(grid, out, Path("sections"), "auto", 3, 0.5, True), RunOptions(grid, out)]


def test_the_command_is_noted_as_it_was_typed(
    asked: list[RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/some/where/isovi-bench", "quick", "--out", "my results"])
    assert bench("quick", "--out", "my results").exit_code == 0
    assert asked[0].command == "isovi-bench quick --out 'my results'"


@pytest.mark.parametrize(
    ("verb", "preset"), [("paper", "paper"), ("quick", "quick"), ("quick --small", "small")]
)
def test_presets_come_with_the_package(asked: list[RunOptions], verb: str, preset: str) -> None:
    assert bench(*verb.split(), "--out", "results").exit_code == 0
    assert asked[0].grid.name == f"{preset}.yaml" and asked[0].grid.is_file()


def test_failed_jobs_are_told_by_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run", lambda *_: {"done": 5, "failed": 1})
    assert bench("quick", "--out", "results").exit_code == 1


def test_a_wrong_grid_ends_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("methods: [pca]")
    result = bench("run", tmp_path / "grid.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert "lacks datasets" in result.stderr
    assert not (tmp_path / "out").exists()


def test_tables_and_plots_are_written_beside_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(results: Path, out: Path, *_: object) -> list[Path]:
        out.mkdir()
        (out / "table1_spots_heldout.md").write_text("| Moran's I [all] |\n")
        return [results / out.name / "table1_spots_heldout.md"]

    monkeypatch.setattr("isovi_bench.tables.write", write)
    monkeypatch.setattr("isovi_bench.plots.write", write)
    monkeypatch.setattr("isovi_bench.page.write", lambda _results, page, _since: [page])
    told = bench("table", tmp_path, "--page", tmp_path / "page.md").stdout
    assert "| Moran's I [all] |" in told and f"{tmp_path}/page.md" in told
    assert f"{tmp_path}/tables/table1_spots_heldout.md" in told
    assert f"{tmp_path}/plots/" in bench("plots", tmp_path).stdout


@pytest.mark.parametrize("verb", ["table", "plots"])
def test_a_folder_without_results_is_refused(tmp_path: Path, verb: str) -> None:
    result = bench(verb, tmp_path)
    assert result.exit_code == 2 and "holds no results.parquet" in result.stderr


def test_peers_are_listed_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr("isovi_bench.peers.install", lambda name, tell: tell(name) or installed.append(name))
    listed = bench("peers", "--install", "banksy", "--install", "stagate").stdout
    assert installed == ["banksy", "stagate"]
    assert "spagcn" in listed and "graphst" in listed
