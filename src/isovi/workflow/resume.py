"""Going on with a fit that was interrupted: where its checkpoint is, and whether it is of the same fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isovi.data import io
from isovi.errors import InputError, IsoviError, OutputError
from isovi.model.checkpoint import read_about, temporary_of

PACKAGES = ("isovi", "scvi-tools", "torch")  # another version may continue otherwise
ELSEWHERE = {"input", "coordinates", "out", "force", "resume"}  # options that do not change the result


@dataclass(frozen=True)
class Attempt:
    """One try at a fit.

    Attributes
    ----------
    checkpoint
        File in which its training is kept until the results are there.
    about
        Options, digest of the input and versions: what has to be the same for going on.
    resumes
        Whether it goes on from the checkpoint.
    """

    checkpoint: Path
    about: dict[str, str]
    resumes: bool


def checkpoint_of(out: Path) -> Path:
    """Where a fit to ``out`` keeps its training: beside it, since the folder appears whole or not at all."""
    final = out.expanduser().resolve()
    return final.with_name(f"{final.name}.partial.ckpt")


def describe_attempt(options: dict[str, Any], digest: str) -> dict[str, str]:
    """What must not change between two attempts.

    Parameters
    ----------
    options
        Options of the fit as text and numbers.
    digest
        SHA-256 of the input.
    """
    asked = {name: str(value) for name, value in options.items() if name not in ELSEWHERE}
    return {**asked, "input_sha256": digest, **{name: version(name) for name in PACKAGES}}


def require_decision(out: Path, *, resume: bool, force: bool) -> None:
    """Refuse to throw an unfinished run away unasked.

    Parameters
    ----------
    out
        Folder of the results.
    resume, force
        Whether to go on with it, or to start anew.

    Raises
    ------
    OutputError
        If there is an unfinished run, and neither was asked for.
    """
    if checkpoint_of(out).exists() and not resume and not force:
        raise OutputError(
            f'An unfinished run is kept in "{checkpoint_of(out)}".',
            "It is not thrown away unasked.",
            "Go on with it by --resume, or start anew by --force.",
        )


def begin(out: Path, about: dict[str, str], *, resume: bool) -> Attempt:
    """Look for what an earlier attempt left, or throw it away.

    Parameters
    ----------
    out
        Folder of the results.
    about
        What this attempt is; see :func:`describe_attempt`.
    resume
        Go on where there is something to go on from; otherwise start anew.

    Raises
    ------
    InputError
        If the earlier attempt was another one.
    """
    path = checkpoint_of(out)
    if not resume:
        path.unlink(missing_ok=True)
    resumes = path.exists()
    if resumes:
        _require_same(path, read_about(path), about)
    return Attempt(path, about, resumes)


def finished(out: Path, options: dict[str, Any], source: io.Source | Path) -> dict[str, Any] | None:
    """Figures of a finished run of the same options on the same input, if ``out`` is one."""
    record_file = out.expanduser().resolve() / io.RUN_FILE
    if not record_file.is_file() or not io.Source.of(source).path.expanduser().exists():
        return None
    record = json.loads(record_file.read_text(encoding="utf-8"))
    known = describe_attempt(record.get("arguments", {}), record.get("input_sha256", ""))
    if known != describe_attempt(options, known["input_sha256"]):
        return None
    if io.digest(source) != known["input_sha256"]:
        return None
    return json.loads(record_file.with_name("metrics.json").read_text(encoding="utf-8"))


@contextmanager
def kept(checkpoint: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Remove the checkpoint once the block has done its work; say where it is if the block fails.

    Parameters
    ----------
    checkpoint
        The file.
    tell
        Takes what to say.
    """
    try:
        yield
    except BaseException as error:
        if checkpoint.exists() and not isinstance(error, IsoviError):
            tell(f"Stopped. The same command with --resume goes on from {checkpoint}")
        raise
    for path in (checkpoint, temporary_of(checkpoint)):
        path.unlink(missing_ok=True)


def _require_same(path: Path, before: dict[str, str], now: dict[str, str]) -> None:
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        listed = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
        raise InputError(
            f'The unfinished run in "{path}" is another one: {listed}.',
            "Only the same fit to the same file with the same packages goes on to the same result.",
            "Give what was given before, or start anew by --force without --resume.",
        )
