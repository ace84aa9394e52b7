from __future__ import annotations

import logging
import sys
from io import StringIO

import pytest
from rich.console import Console

import isovi.progress
from isovi.progress import ConsoleProgress, Progress, Silent, progress_of

METRICS = {"elbo_train": 12.3456, "relative_distortion_train": 0.25, "kl_local_train": 7.0}


def train(progress: Progress, epochs: int) -> None:
    """Report a training."""
    for epoch in range(1, epochs + 1):
        progress.epoch(epoch, epochs, METRICS)
    progress.close()


def on(terminal: bool) -> tuple[ConsoleProgress, StringIO]:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, force_jupyter=False, width=100)
    return ConsoleProgress(console), out


@pytest.mark.parametrize(("epochs", "lines"), [(3, 3), (10, 10), (100, 10), (400, 10), (105, 10), (19, 19)])
def test_off_a_terminal_about_ten_lines_are_printed(epochs: int, lines: int) -> None:
    progress, out = on(terminal=False)
    train(progress, epochs)
    said = out.getvalue().splitlines()
    assert len(said) == lines
    assert said[0] == f"  epoch {max(epochs // 10, 1)}/{epochs}  ELBO loss 12.35, distortion 0.25"
    assert progress.bar is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of progress, as its only item."""
    now = [100.0]
    monkeypatch.setattr(isovi.progress, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("seconds", "left"), [(0.5, "45 s"), (4.0, "6 min"), (100.0, "2.5 h"), (0.05, "")])
def test_off_a_terminal_the_time_left_is_said(clock: list[float], seconds: float, left: str) -> None:
    progress, out = on(terminal=False)
    for epoch in range(1, 11):
        progress.epoch(epoch, 100, {"elbo_train": 2.0})
        clock[0] += seconds
    expected = f"  epoch 10/100  ELBO loss 2{f', about {left} left' if left else ''}"
    assert out.getvalue().splitlines()[-1] == expected


def test_a_resumed_training_counts_from_where_it_resumed(clock: list[float]) -> None:
    progress, out = on(terminal=False)
    progress.epoch(80, 100, {})
    clock[0] += 50
    progress.epoch(90, 100, {})
    assert out.getvalue().splitlines()[-1] == "  epoch 90/100  about 50 s left"


def test_off_a_terminal_nobody_waits_longer_than_five_minutes(clock: list[float]) -> None:
    progress, out = on(terminal=False)
    for epoch in range(1, 41):
        progress.epoch(epoch, 400, METRICS)
        clock[0] += 100
    said = [line.split()[1] for line in out.getvalue().splitlines()]
    assert said == [f"{epoch}/400" for epoch in (4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 37, 40)]


def test_metrics_that_were_not_logged_are_left_out() -> None:
    progress, out = on(terminal=False)
    progress.epoch(1, 1, {"elbo_train": 2.0})
    assert out.getvalue() == "  epoch 1/1  ELBO loss 2\n"


def test_in_a_notebook_without_widgets_lines_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich says at each move of a bar that ipywidgets should be installed."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    said: list[str] = []
    progress = ConsoleProgress(Console(file=StringIO(), force_jupyter=True))
    monkeypatch.setattr(progress, "say", said.append)
    train(progress, 30)
    assert progress.bar is None and len(said) == 10


def test_on_a_terminal_there_is_one_bar_until_training_ends() -> None:
    progress, out = on(terminal=True)
    progress.epoch(40, 400, METRICS)
    bar = progress.bar
    assert bar is not None
    progress.epoch(80, 400, METRICS)
    assert progress.bar is bar
    assert (bar.tasks[0].completed, bar.tasks[0].total) == (80, 400)
    bar.refresh()
    progress.close()
    shown = out.getvalue()
    assert "Training" in shown and "80/400" in shown and "ELBO loss 12.35, distortion 0.25" in shown
    assert "epoch" not in shown
    assert progress.bar is None and bar.finished is False
    progress.close()  # a training that failed before its first epoch has none either


def test_a_second_training_has_a_bar_of_its_own() -> None:
    progress, _ = on(terminal=True)
    train(progress, 3)
    progress.epoch(1, 5, METRICS)
    assert progress.bar is not None
    assert (progress.bar.tasks[0].completed, progress.bar.tasks[0].total) == (1, 5)
    progress.close()


def test_sentences_are_printed_as_they_are() -> None:
    progress, out = on(terminal=False)
    long = f"Wrote run[red]/{'x' * 200} :smile:"
    progress.say(long)
    assert out.getvalue() == f"{long}\n"


def test_console_progress_goes_to_standard_error(capsys: pytest.CaptureFixture) -> None:
    ConsoleProgress().say("Trained.")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "Trained.\n")


def test_progress_logs_sentences_and_prints_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="isovi"):
        Progress().say("Trained 3 epochs")
        train(Progress(), 3)
    assert caplog.record_tuples == [("isovi", logging.INFO, "Trained 3 epochs")]
    assert capsys.readouterr() == ("", "")


def test_silent_does_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Silent().say("Trained 3 epochs")
        train(Silent(), 3)
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_true_shows_progress_and_false_only_logs_it() -> None:
    own = Silent()
    assert progress_of(own) is own
    assert isinstance(progress_of(True), ConsoleProgress)
    assert type(progress_of(False)) is Progress
