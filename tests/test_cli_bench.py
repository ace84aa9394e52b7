from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from isovi import cli
from isovi.bench import runner
from isovi.bench.runner import RunOptions


def isovi(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunOptions]:
    """What a comparison was asked to do, instead of doing it."""
    options: list[RunOptions] = []
    monkeypatch.setattr(runner, "run", lambda given, _: options.append(given))
    return options


@pytest.mark.parametrize("verb", ["run", "paper", "quick"])
def test_help_names_every_verb_and_says_what_it_does(verb: str) -> None:
    assert "bench" in isovi("--help").stdout and verb in isovi("bench", "--help").stdout
    result = isovi("bench", verb, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout and "Example" in result.stdout


def test_every_option_arrives(asked: list[RunOptions]) -> None:
    text = "bench run grid.yaml --out results --data sections --ray-address auto --workers 3 --retry-failed"
    assert isovi(*text.split()).exit_code == 0
    assert isovi("bench", "run", "grid.yaml", "--out", "results").exit_code == 0
    grid, out = Path("grid.yaml"), Path("results")
    assert asked == [RunOptions(grid, out, Path("sections"), "auto", 3, True), RunOptions(grid, out)]


@pytest.mark.parametrize(
    ("verb", "preset"), [("paper", "paper"), ("quick", "quick"), ("quick --small", "small")]
)
def test_presets_come_with_the_package(asked: list[RunOptions], verb: str, preset: str) -> None:
    assert isovi("bench", *verb.split(), "--out", "results").exit_code == 0
    assert asked[0].grid.name == f"{preset}.yaml" and asked[0].grid.is_file()


def test_a_wrong_grid_ends_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("methods: [pca]")
    result = isovi("bench", "run", tmp_path / "grid.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert "lacks datasets" in result.stderr
    assert not (tmp_path / "out").exists()
