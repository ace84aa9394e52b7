from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from isovi_bench import cli
from isovi_bench.studies import transfer


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def latent(coordinates: np.ndarray, variant: str) -> np.ndarray:
    noise = {"isoscvi": 0.0, "scvi": 1.0}[variant]
    return 2 * coordinates + noise * np.random.default_rng(0).normal(size=coordinates.shape)


def test_studies_print_what_they_find(ran, tissue, tmp_path: Path) -> None:
    options = ran(latent, datasets=[tissue], methods=["scvi", "isoscvi"])
    page = tmp_path / "theorem.md"
    assert bench("theorem", options.out, "--page", page).stdout.split()[0] == str(page)
    assert "| tissue | isoscvi | 600.0 | 1.0 | 0.0 |" in bench("neighbors", options.out).stdout
    placed = bench("placement", options.grid, "--out", options.out, "--no-baselines").stdout
    assert placed.startswith("| method | tissue |") and "| trilateration |" in placed


def test_every_option_of_a_transfer_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(transfer, "measure", lambda *given: calls.append(given))
    monkeypatch.setattr(transfer, "report", lambda _: "a table")
    files = ("--data", "sections", "--out", "rows.jsonl")
    options = ("--seed", 1, "--seed", 2, "--max-epochs", 5, "--novosparc", "python3")
    assert bench("transfer", "a:b", "c+d:e", *files, *options).stdout == "a table\n"
    assert bench("transfer", "a:b", *files).exit_code == 0
    data, out = Path("sections"), Path("rows.jsonl")
    assert calls == [
        (["a:b", "c+d:e"], data, out, [1, 2], 5, Path("python3")),
        (["a:b"], data, out, (0,), None, None),
    ]


@pytest.mark.parametrize("verb", ["theorem", "neighbors"])
def test_a_folder_without_results_is_refused(tmp_path: Path, verb: str) -> None:
    page = ["--page", tmp_path / "theorem.md"] if verb == "theorem" else []
    result = bench(verb, tmp_path, *page)
    assert result.exit_code == 2 and "holds no results.parquet" in result.stderr
