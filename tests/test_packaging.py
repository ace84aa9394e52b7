"""What is published agrees with itself: metadata, links, recipes and the container."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

HOME = "https://github.com/isovi/isovi"
DOCS = "https://isovi.readthedocs.io"
PICTURES = "https://raw.githubusercontent.com/isovi/isovi/main/"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names on conda-forge, where they differ."""


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def missing(repository: Path, target: str) -> bool:
    """Whether a link of a README leads nowhere, as far as can be known without a network."""
    if target.startswith(f"{DOCS}/page/"):
        page = target.removeprefix(f"{DOCS}/page/").split("#")[0]
        return not (repository / "docs" / page).with_suffix(".md").is_file()
    for prefix in (PICTURES, f"{HOME}/blob/main/", f"{HOME}/tree/main/"):
        if target.startswith(prefix):
            return not (repository / target.removeprefix(prefix)).exists()
    return not target.startswith("https://")  # relative links break on a package index


@pytest.mark.parametrize("name", ["README.md", "bench/README.md"])
def test_links_of_a_readme_work_anywhere(repository: Path, name: str) -> None:
    targets = [link or attribute for link, attribute in LINK.findall((repository / name).read_text())]
    assert len(targets) > 3
    assert [target for target in targets if missing(repository, target)] == []


def test_addresses_agree(repository: Path, project: dict) -> None:
    bench = tomllib.loads((repository / "bench/pyproject.toml").read_text())
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    entry = yaml.safe_load((repository / "packaging/scverse/meta.yaml").read_text())
    recipe = yaml.safe_load((repository / "packaging/conda/recipe.yaml").read_text())
    zenodo = json.loads((repository / ".zenodo.json").read_text())
    related = {one["identifier"] for one in zenodo["related_identifiers"]}
    urls = project["project"]["urls"]
    homes = {urls["Homepage"], urls["Source"], citation["repository-code"], entry["project_home"]}
    assert homes | {recipe["about"]["homepage"], bench["project"]["urls"]["Homepage"]} == {HOME}
    assert {urls["Documentation"], citation["url"], entry["documentation_home"].rstrip("/")} == {DOCS}
    assert {HOME, DOCS} <= related
    for pages in (urls, bench["project"]["urls"]):
        assert not missing(repository, pages["Changelog"])
    assert {one["license"] for one in (project["project"], citation, entry, zenodo)} == {"BSD-3-Clause"}


def test_the_conda_recipe_requires_what_the_package_does(repository: Path, project: dict) -> None:
    recipe = yaml.safe_load((repository / "packaging/conda/recipe.yaml").read_text())
    declared = [Requirement(text) for text in project["project"]["dependencies"]]
    expected = {CONDA.get(one.name, one.name): one.specifier for one in declared}
    given = {one.name: one.specifier for one in map(Requirement, recipe["requirements"]["run"])}
    del given["python"]
    assert given == expected
    assert f"\nversion: {recipe['context']['version']}\n" in (repository / "CITATION.cff").read_text()


def test_the_container_copies_what_there_is(repository: Path, project: dict) -> None:
    text = (repository / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert [name for name in copied if not (repository / name).exists()] == []
    ignored = (repository / ".dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    extras = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])


def test_pythons_that_are_named_elsewhere_are_supported(repository: Path, project: dict) -> None:
    start = "Programming Language :: Python :: 3."
    supported = {one.rpartition(" ")[2] for one in project["project"]["classifiers"] if one.startswith(start)}
    pages = yaml.safe_load((repository / ".readthedocs.yaml").read_text())
    recipe = yaml.safe_load((repository / "packaging/conda/recipe.yaml").read_text())
    jobs = yaml.safe_load((repository / ".github/workflows/test.yml").read_text())["jobs"]
    container = re.search(
        r"^FROM python:([\d.]+)-slim$", (repository / "Dockerfile").read_text(), re.MULTILINE
    )
    assert container is not None
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == supported
    named = {container[1], pages["build"]["tools"]["python"]}
    assert named | {recipe["tests"][0]["python"]["python_version"].removesuffix(".*")} <= supported


def test_a_release_is_published_by_trust_after_the_checks(repository: Path) -> None:
    jobs = yaml.safe_load((repository / ".github/workflows/release.yml").read_text())["jobs"]
    assert jobs["publish"]["needs"] == "build" and jobs["publish"]["environment"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write", "attestations": "write"}
    assert any(step.get("run", "").startswith(".ci/package") for step in jobs["build"]["steps"])
    assert not any("password" in step.get("with", {}) for step in jobs["publish"]["steps"])


def test_what_a_visitor_of_the_repository_looks_for_is_there(repository: Path) -> None:
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "docs/support.md", ".github/pull_request_template.md"):
        assert len((repository / name).read_text()) > 200, name
    forms = sorted((repository / ".github/ISSUE_TEMPLATE").glob("*_*.yml"))
    assert [path.stem for path in forms] == ["bug_report", "feature_request"]
    for form in forms:
        assert {"name", "description", "body"} <= set(yaml.safe_load(form.read_text())), form.name


def test_tests_of_every_extra_run_where_tests_do(project: dict) -> None:
    wanted = {one.name: one.extras for one in map(Requirement, project["dependency-groups"]["test"])}
    inside = wanted.pop("isovi")
    for extra, packages in project["project"]["optional-dependencies"].items():
        assert extra in inside or {Requirement(one).name for one in packages} <= set(wanted), extra
