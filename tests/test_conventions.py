from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement

import isovi
from isovi.geometry.distortion import weighted_median

TEXT = {".cfg", ".cff", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ""}
FRAGMENT = re.compile(r"(\d+|\+\w+)\.(added|changed|fixed|removed)(\.\d+)?\.md")
HOME = re.compile(r"/(?:home|Users|root)/\w")

TRANSLATED = (
    "is told",
    "are told",
    "goes on with",
    "gone on with",
    "be had",
    "not-a-number",
    "asked of",
)
"""Phrases that read as translated; matched without regard to case and line breaks."""

PROSE = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/**/*.md",
    "src/isovi/*.py",
    "src/isovi/cli/*.py",
    "src/isovi/geometry/*.py",
    "src/isovi/pl/*.py",
    "src/isovi/reconstruct/*.py",
    "src/isovi/tl/*.py",
)


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def files_of(repository: Path) -> list[Path]:
    folders = ["src", "tests", "bench", "docs", "changelog.d", ".ci", ".github"]
    inside = [path for folder in folders for path in (repository / folder).rglob("*")]
    built = {"_build", "__pycache__", "results"}
    return [
        path
        for path in [*repository.iterdir(), *inside]
        if path.is_file() and path.suffix in TEXT and not built & set(path.parts) and path.name != ".coverage"
    ]


def test_version_is_the_same_everywhere(repository: Path) -> None:
    for name in ("isovi", "isovi-bench"):
        assert version(name) == isovi.__version__, "installed from an older version: run make clean"
    assert f"\nversion: {isovi.__version__}\n" in (repository / "CITATION.cff").read_text()


def test_pre_commit_uses_the_pinned_ruff(repository: Path) -> None:
    pinned = re.search(r"^ruff==(\S+)$", (repository / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"rev: v{pinned[1]} " in (repository / ".pre-commit-config.yaml").read_text()


def test_constraints_lie_in_the_declared_ranges(project: dict, repository: Path) -> None:
    pins = [Requirement(line.split("#")[0]) for line in constraint_lines(repository)]
    exact = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    declared = [Requirement(text) for text in project["project"]["dependencies"]]
    on_311 = {"python_version": "3.11", "python_full_version": "3.11.0"}
    applying = [need for need in declared if need.marker is None or need.marker.evaluate(on_311)]
    assert {need.name for need in applying} <= set(exact)
    assert [need.name for need in applying if exact[need.name] not in need.specifier] == []


def constraint_lines(repository: Path) -> list[str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_fragments_are_named_by_issue_and_kind(repository: Path) -> None:
    names = [path.name for path in (repository / "changelog.d").iterdir() if path.name != "README.md"]
    assert [name for name in names if not FRAGMENT.fullmatch(name)] == []


def test_no_file_names_somebodys_home(repository: Path) -> None:
    files = files_of(repository)
    assert len(files) > 20
    found = [str(path) for path in files if HOME.search(path.read_text(encoding="utf-8"))]
    assert found == []


def phrases_in(text: str) -> list[str]:
    """Phrases of `TRANSLATED` in a text."""
    joined = " ".join(text.split()).lower()
    return [phrase for phrase in TRANSLATED if re.search(rf"\b{phrase}\b", joined)]


def test_prose_is_plain_english(repository: Path) -> None:
    files = {pattern: sorted(repository.glob(pattern)) for pattern in PROSE}
    assert [pattern for pattern, found in files.items() if not found] == []
    checked = {path for found in files.values() for path in found}
    found = {
        str(path.relative_to(repository)): phrases_in(path.read_text(encoding="utf-8"))
        for path in checked
        if "_build" not in path.parts
    }
    assert {name: phrases for name, phrases in found.items() if phrases} == {}


def test_phrases_are_found_across_lines() -> None:
    assert phrases_in("What it holds Is\n    told elsewhere.") == ["is told"]
    assert phrases_in("This will soon behave.") == []


def test_public_names_exist_and_have_docstrings() -> None:
    assert isovi.__all__
    objects = {name: getattr(isovi, name) for name in isovi.__all__}
    assert [name for name, value in objects.items() if callable(value) and not value.__doc__] == []


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        weighted_median(torch.ones(3), torch.ones(2))


def test_import_checks_no_shapes_draws_no_random_numbers_and_loads_no_report() -> None:
    code = """
import random, sys, numpy, scvi, torch
state = lambda: (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
before = state()
import isovi
assert state() == before
assert "beartype" not in sys.modules
import isovi.cli
assert "bokeh" not in sys.modules, "only a report needs it"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
