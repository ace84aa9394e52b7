"""Pages agree with the package: names, commands, links. What Sphinx itself checks is left to `make docs`."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import isovi
from isovi import cli
from isovi_bench import cli as bench

TUTORIALS = (
    *("first_fit", "geometry", "cortex_layers", "xenium_section", "several_sections"),
    *("label_transfer", "placing_cells", "own_backbone"),
)
FENCE = re.compile(r"^```+\{?([\w-]*)[^\n]*\n(.*?)^```+$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def pages(repository: Path) -> dict[str, str]:
    """Text of every page of the documentation, by its path without suffix."""
    folder = repository / "docs"
    files = [path for path in folder.rglob("*.md") if "_build" not in path.parts]
    return {str(path.relative_to(folder).with_suffix("")): path.read_text() for path in files}


@pytest.fixture(scope="module")
def texts(repository: Path, pages: dict[str, str]) -> dict[str, str]:
    """The pages, and those that stand outside of the documentation."""
    others = ("README.md", "CONTRIBUTING.md")
    return {f"docs/{name}.md": text for name, text in pages.items()} | {
        name: (repository / name).read_text() for name in others
    }


def fences(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


# ---------------------------------------------------------------------------- names


def listed(text: str) -> dict[str, list[str]]:
    """Names in the tables of the reference, by the module they are in."""
    found: dict[str, list[str]] = {}
    module = ""
    for line in text.splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            found.setdefault(module, []).append(line.strip())
    return found


def test_the_reference_lists_every_public_name_once(pages: dict[str, str]) -> None:
    found = listed(pages["api"])
    public = {
        "isovi": sorted(set(isovi.__all__) - {"tl", "pl"}),
        "isovi.tl": sorted(isovi.tl.__all__),
        "isovi.pl": sorted(isovi.pl.__all__),
    }
    assert {module: sorted(names) for module, names in found.items()} == public


def test_every_public_name_has_a_docstring_that_tells_its_parameters() -> None:
    homes = (isovi, isovi.tl, isovi.pl)
    public = {
        name: getattr(home, name) for home in homes for name in home.__all__ if name not in ("tl", "pl")
    }
    assert [name for name, value in public.items() if not (value.__doc__ or "").strip()] == []
    functions = [value for value in public.values() if type(value).__name__ == "function"]
    silent = [one.__name__ for one in functions if not tells(one)]
    assert silent == []


def tells(function: object) -> bool:
    """Whether a function has a section on parameters, or just one parameter that its summary speaks of."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]  # type: ignore[attr-defined]
    return len(names) <= 2 or "Parameters\n" in (function.__doc__ or "")


def test_names_in_python_blocks_exist(texts: dict[str, str]) -> None:
    known = {"isovi": isovi, "isovi.tl": isovi.tl, "isovi.pl": isovi.pl}
    for name, text in texts.items():
        for block in fences(text, "python", "code-cell"):
            code = re.sub(r"^:\w+:.*\n", "", block, flags=re.MULTILINE)
            ast.parse(code.replace("...)", ")"))
            for home, attribute in re.findall(r"\b(isovi(?:\.tl|\.pl)?)\.([A-Za-z]\w*)", code):
                module = importlib.util.find_spec(f"{home}.{attribute}")
                assert attribute in known[home].__all__ or module is not None, (name, attribute)


# ---------------------------------------------------------------------------- commands


APPS = {"isovi": cli.app, "isovi-bench": bench.app}


def commands(text: str) -> Iterator[list[str]]:
    """Calls of isovi and isovi-bench in the console blocks, word by word."""
    for block in fences(text, "console", "bash", ""):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] in APPS:
                yield words


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The verb that is called, and the words that follow it."""
    command: click.Command = typer.main.get_command(APPS[words[0]])
    words = words[1:]
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
        assert not command.hidden, command.name
    return command, words


def test_commands_exist_with_these_options(texts: dict[str, str]) -> None:
    seen = 0
    for name, text in texts.items():
        for words in commands(text):
            command, rest = find(words)
            known = {option for one in command.params for option in one.opts} | {"--help"}
            assert {word for word in rest if word.startswith("--")} <= known, (name, words)
            seen += 1
    assert seen > 10


# ---------------------------------------------------------------------------- pages and links


def test_every_page_is_in_a_table_of_contents(pages: dict[str, str]) -> None:
    linked = {"index"}
    for name, text in pages.items():
        for body in fences(text, "toctree"):
            lines = [line.strip() for line in body.splitlines() if line.strip() and not line.startswith(":")]
            linked |= {str(Path(name).parent / line) for line in lines}
    assert set(pages) == linked


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("batch effect integration", "sections"),
        ("UMAP", "faq"),
        ("Visium HD", "inputs"),
        ("batches", "tutorials/several_sections"),
        ("installation", "installation"),
    ],
)
def test_what_newcomers_search_for_is_in_a_heading(words: str, page: str, pages: dict[str, str]) -> None:
    headings = " ".join(re.findall(r"^#+ (.+)$", pages[page], re.MULTILINE)).lower()
    assert [word for word in words.lower().split() if word not in headings] == []


def test_the_methods_that_a_newcomer_knows_are_named(pages: dict[str, str]) -> None:
    known = (
        *("scVI", "scVIVA", "resolVI", "Novae", "NicheCompass", "CellCharter", "STAGATE", "GraphST"),
        *("BANKSY", "GraphPCA", "Smoother", "Tangram", "novoSpaRc", "CeLEry"),
    )
    assert [name for name in known if f"**{name}**" not in pages["alternatives"]] == []
    assert "**Why not [annbatch]" in pages["large"]
    assert "Why our own, when scanpy, squidpy and esda have Moran's I?" in pages["geometry"]


def test_links_outside_of_the_documentation_lead_somewhere(repository: Path, texts: dict[str, str]) -> None:
    for target in LINK.findall(texts["CONTRIBUTING.md"]):
        if "://" not in target:
            assert (repository / target.split("#")[0]).exists(), target


def test_tutorials_are_notebooks_that_are_run(pages: dict[str, str]) -> None:
    assert {name for name in pages if name.startswith("tutorials/")} == {f"tutorials/{n}" for n in TUTORIALS}
    for name in TUTORIALS:
        text = pages[f"tutorials/{name}"]
        assert text.startswith("---\nfile_format: mystnb\n")
        assert len(fences(text, "code-cell")) >= 6
