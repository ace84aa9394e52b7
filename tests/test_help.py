"""Help reads like a manual page: these tests walk over every verb there is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
import typer
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
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERMINAL_WIDTH", str(WIDTH))


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(APPS[path[0]], [*path[1:], "--help"])
    assert result.exit_code == 0
    return result.stdout


def panel(text: str, title: str) -> list[str]:
    """Lines of the box with this title."""
    inside = re.search(rf"╭─ {title} ─+╮\n(.*?)╰", text, re.DOTALL)
    return inside[1].splitlines() if inside else []


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
    lines = panel(help_of(path), "Options")
    assert [line for line in lines if not FIRST.match(line)] == []
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_each_default_is_shown(path: tuple[str, ...]) -> None:
    lines = panel(help_of(path), "Options")
    for option in options(VERBS[path]):
        if option.required or option.default is None or isinstance(option.default, bool):
            continue
        (line,) = [line for line in lines if re.search(rf"{re.escape(option.opts[0])}\s", line)]
        assert "[default: " in line, line


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_each_verb_has_a_line_of_its_own_in_the_list(path: tuple[str, ...]) -> None:
    lines = panel(help_of(path), "Commands")
    known = {name[len(path)] for name in VERBS if name[: len(path)] == path}
    assert {line.split()[1] for line in lines} == known


def test_the_walk_finds_the_verbs() -> None:
    assert {("isovi", "fit"), ("isovi", "simulate"), ("isovi-bench", "run")} <= set(VERBS)
