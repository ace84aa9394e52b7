"""Terminals that lack letters, colour, a home folder or a reader: for every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NAME = "größe λ 'x'\n[bold]"  # of a folder
VERBS = {
    "inspect": "inspect {input}",
    "pack": "pack {input} {out}.zarr",
    "simulate": "simulate --out {out}.h5ad --n-obs 40 --n-genes 10",
    "compare": "compare {run}",
    "report": "report {run}",
    "diagnose": "diagnose {run}",
    "place": "place {run} --query {input} --out {out}.h5ad",
    "fit": "fit {input} --out {out} --max-epochs 1 --n-latent 2",
    "help": "fit --help",
    "error": "fit {input} --out {out} --seed -1",
}
TERMINALS: dict[str, dict[str, str]] = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "dumb, no home": {"TERM": "dumb", "NO_COLOR": "1", "HOME": ""},
}
ALL = """
import os, sys
from isovi.cli import main
for line in os.fsdecode(sys.stdin.buffer.read()).split("\\0"):
    sys.argv = ["isovi", *line.split("\\1")]
    try:
        main()
    except SystemExit as end:
        print("\\nstatus", end.code, flush=True)
"""


@pytest.fixture(scope="module")
def places(run: Any, tissue_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Input and run in a folder with an odd name."""
    folder = tmp_path_factory.mktemp("terminals") / NAME
    folder.mkdir()
    (folder / "in.h5ad").symlink_to(tissue_file)
    subprocess.run(["cp", "-r", str(run.out), str(folder / "run")], check=True)
    return {"input": str(folder / "in.h5ad"), "run": str(folder / "run")}


@pytest.mark.parametrize("terminal", list(TERMINALS))
def test_every_command_prints_on_every_terminal(
    terminal: str, places: dict[str, str], tmp_path: Path
) -> None:
    """All in one process, since importing takes longest."""
    given = {**places, "out": ""}
    lines = []
    for verb, words in VERBS.items():
        given["out"] = str(tmp_path / verb)
        lines.append("\1".join(word.format(**given) for word in words.split(" ")))
    found = subprocess.run(
        [sys.executable, "-c", ALL],
        input="\0".join(lines).encode(),
        capture_output=True,
        env={**os.environ, **({"PYTHONUTF8": "1"} if terminal[0] != "C" else {}), **TERMINALS[terminal]},
        check=False,
    )
    said, error = found.stdout.decode("latin-1"), found.stderr.decode("latin-1")
    status = [line.split()[1] for line in said.splitlines() if line.startswith("status ")]
    assert len(status) == len(VERBS), error
    assert dict(zip(VERBS, status, strict=True)) == {verb: "2" if verb == "error" else "0" for verb in VERBS}
    assert "Traceback" not in error and "\x1b[" not in said


@pytest.mark.parametrize("verb", ["inspect", "fit"])
def test_nobody_has_to_read_to_the_end(verb: str, places: dict[str, str], tmp_path: Path) -> None:
    words = [word.format(**places, out=tmp_path / "out") for word in VERBS[verb].split(" ")]
    piped = subprocess.Popen(
        [sys.executable, "-m", "isovi.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    piped.stdout.close()  # type: ignore[union-attr]  # a pipe
    lines = piped.stderr.read().decode().splitlines()  # type: ignore[union-attr]  # likewise
    assert all(line.startswith("Note: ") for line in lines) and piped.wait() == 0


def test_an_empty_path_is_refused_and_one_with_a_dash_can_be_typed() -> None:
    from isovi.cli.options import fit_command

    found = subprocess.run(
        [sys.executable, "-m", "isovi.cli", "inspect", ""], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2 and "The path is empty." in found.stderr
    assert fit_command(Path("-x.h5ad"), {}) == "isovi fit ./-x.h5ad --out run"
