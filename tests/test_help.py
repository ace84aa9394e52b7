"""Help reads like a manual page: these tests walk over every verb there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

import click
import pytest
import typer
from typer import rich_utils
from typer.testing import CliRunner

from isovi import cli
from isovi_bench import cli as bench

WIDTH = 100
FIRST = re.compile(r"│ [* ]? *-")  # an option's line begins with its name


def verbs(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb of the command line, those of sub-commands among them, with how it is called."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield path, command
        return
    for name, inner in commands.items():
        if not inner.hidden:
            yield from verbs(inner, (*path, name))


def groups(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that has verbs beneath it."""
    if hasattr(command, "commands"):
        yield path
        for name, inner in command.commands.items():
            yield from groups(inner, (*path, name))


APPS = {"isovi": cli.app, "isovi-bench": bench.app}
MAINS = {name: typer.main.get_command(app) for name, app in APPS.items()}
VERBS = {path: command for name, main in MAINS.items() for path, command in verbs(main, (name,))}
GROUPS = [path for name, main in MAINS.items() for path in groups(main, (name,))]


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", WIDTH)


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(APPS[path[0]], [*path[1:], "--help"])
    assert result.exit_code == 0
    return result.stdout


def panels(text: str) -> dict[str, list[str]]:
    """Lines of each box, by its title."""
    return {
        title: inside.splitlines() for title, inside in re.findall(r"╭─ (.+?) ─+╮\n(.*?)╰", text, re.DOTALL)
    }


def option_lines(text: str) -> list[str]:
    """Lines of all boxes of options."""
    boxes = {title: lines for title, lines in panels(text).items() if title not in ("Arguments", "Commands")}
    return [line for lines in boxes.values() for line in lines]


def options(command: click.Command) -> list[click.Parameter]:
    return [one for one in command.params if one.param_type_name == "option" and not one.hidden]


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_verb_says_what_it_does_and_gives_an_example(path: tuple[str, ...]) -> None:
    shown = " ".join(help_of(path).split())
    assert (VERBS[path].help or "").strip()
    assert f"Example: {' '.join(path)} " in shown


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_option_says_what_it_is(path: tuple[str, ...]) -> None:
    assert [one.name for one in VERBS[path].params if not (getattr(one, "help", None) or "").strip()] == []


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_option_has_a_line_of_its_own(path: tuple[str, ...]) -> None:
    lines = option_lines(help_of(path))
    assert [line for line in lines if not FIRST.match(line)] == []
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_default_is_shown(path: tuple[str, ...]) -> None:
    lines = option_lines(help_of(path))
    for option in options(VERBS[path]):
        if option.required or option.default is None or isinstance(option.default, bool):
            continue
        (line,) = [line for line in lines if re.search(rf"{re.escape(option.opts[0])}\s", line)]
        assert "[default: " in line, line


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_group_of_options_fits_a_screen(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 80 x 24 characters, with room for the borders and the line for the next command."""
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    boxes = panels(help_of(path))
    assert {title: len(lines) for title, lines in boxes.items() if len(lines) > 21} == {}
    assert max(len(line) for lines in boxes.values() for line in lines) <= 80


@pytest.mark.parametrize("path", [*VERBS, *GROUPS], ids=" ".join)
def test_a_flag_is_shown_without_a_type(path: tuple[str, ...]) -> None:
    """A value behind it would be taken for an argument."""
    shown = help_of(path)
    assert "--help" in shown and not re.search("<?bool>?", shown, re.IGNORECASE)


def test_the_options_of_fit_come_in_groups() -> None:
    boxes = panels(help_of(("isovi", "fit")))
    assert list(boxes) == ["Arguments", "Options", "Model", "Input", "Split and training"]
    assert any("--penalty" in line for line in boxes["Model"])
    assert any("--section-key" in line for line in boxes["Input"])
    assert any("--holdout" in line for line in boxes["Split and training"])


@pytest.mark.parametrize("name", APPS)
def test_the_version_is_shown(name: str) -> None:
    result = CliRunner().invoke(APPS[name], ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{name} {version(name)}\n")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("isovi ", {"fit", "inspect", "compare", "diagnose", "pack", "place", "report", "simulate", "tune"}),
        ("isovi fit --max", {"--max-epochs"}),
        ("isovi fit --backbone ", {"scvi", "vae"}),
    ],
)
def test_the_shell_completes_commands_options_and_choices(typed: str, expected: set[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    shell = {"_ISOVI_COMPLETE": "complete_bash", **words}
    result = CliRunner().invoke(cli.app, [], prog_name="isovi", env=shell)
    assert set(result.stdout.split()) == expected


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_each_verb_has_a_line_of_its_own_in_the_list(path: tuple[str, ...]) -> None:
    lines = panels(help_of(path))["Commands"]
    known = {name[len(path)] for name in VERBS if name[: len(path)] == path}
    assert {line.split()[1] for line in lines} == known


def test_the_walk_finds_the_verbs() -> None:
    assert {("isovi", "fit"), ("isovi", "simulate"), ("isovi-bench", "run")} <= set(VERBS)
