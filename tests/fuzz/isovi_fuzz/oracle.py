"""What a good outcome is: success with finite metrics, or exit 2 with a message; and nothing else touched."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from isovi.pipeline import UNMEASURED
from isovi.tl import METRICS
from isovi_fuzz.process import Ended

GOOD = ("success", "refused")
_SENTENCE = re.compile(r"(?<=[.:;!?)\]\"'])\s+")
_FRAME = re.compile(r'File "[^"]*?/src/(isovi/[^"]+)", line (\d+), in (\S+)')
_TEMPORARY = re.compile(r"(?<![\w/])(/[\w.-]+)+/case-\d+")


@dataclass(frozen=True)
class Outcome:
    """Outcome of one command on one case.

    Attributes
    ----------
    case, seed
        What was done to the input, and the seed that repeats it.
    verb
        The command.
    kind
        ``success``, ``refused``, or what is wrong: ``traceback``, ``hang``, ``crash``, ``no message``,
        ``not finite``, ``input changed``, ``leftover``, ``refused late`` (after training), ``incomplete``,
        ``half-written``, ``other result``.
    detail
        Of what is wrong, the last lines.
    """

    case: str
    seed: int
    verb: str
    kind: str
    detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.kind in GOOD

    @property
    def group(self) -> str:
        """What failures of one cause share: the exception and where isoVI was."""
        return f"{self.verb}: {self.kind}: {self.detail.splitlines()[-1] if self.detail else ''}"

    def line(self) -> str:
        """The outcome as one line of JSON."""
        return json.dumps(asdict(self))


def snapshot(folder: Path) -> dict[str, str]:
    """Content of all files and links below a folder, and its empty folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names of what was changed, removed and added."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def judge(ended: Ended) -> tuple[str, str]:
    """The outcome as far as exit status and output tell it."""
    if ended.code is None:
        return "hang", f"after {ended.seconds:.0f} s\n{last_lines(ended.text)}"
    if ended.code < 0:
        return "crash", f"signal {-ended.code}\n{last_lines(ended.text)}"
    if "Traceback (most recent call last)" in ended.text or ended.code not in (0, 2):
        return "traceback", last_lines(ended.text)
    if ended.code == 2:
        problem = message_problem(ended.text)
        return ("no message", f"{problem}\n{last_lines(ended.text)}") if problem else ("refused", "")
    return "success", ""


def message_problem(text: str) -> str:
    """What a refusal's message lacks, or nothing."""
    found = text.rpartition("Error: ")[2] if "Error: " in text else ""
    if not found.strip():
        return "no message"
    if len(_SENTENCE.split(found.strip())) < 3:
        return "a message of fewer than three parts"
    return ""


def last_lines(text: str, n: int = 3) -> str:
    """The last lines of an output; of a traceback with the innermost lines of isoVI's own."""
    lines = [line[:300] for line in text.strip().splitlines() if line.strip()]
    frames = [f"{file}:{line} {name}" for file, line, name in _FRAME.findall(text)]
    if not frames:
        return "\n".join(lines[-n:])
    error = next(
        (one for one in reversed(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Warning)?\b:?", one)),
        "",
    )
    return f"{' < '.join(frames[::-1][:3])}\n{error} [{frames[-1].split(' ')[0]}]"


# ---------------------------------------------------------------------------- results


def run_problem(run: Path) -> str:
    """What is wrong with a run that a fit wrote with success, or nothing."""
    expected = {"adata.h5ad", "model", "metrics.json", "run.json", "history.csv", "figures", "report.html"}
    missing = sorted(expected - {path.name for path in run.iterdir()}) if run.is_dir() else ["everything"]
    if missing:
        return f"the run lacks {', '.join(missing)}"
    metrics = json.loads((run / "metrics.json").read_text())
    notes = json.loads((run / "run.json").read_text())["provenance"]["notes"]
    noted = " ".join(note for note in notes if note.startswith(UNMEASURED))
    checked = {name: metrics.get(name) for name in ("train", "heldout", "all") if name in metrics}
    unknown = [
        f"{part} {name}"
        for part, found in checked.items()
        for name, value in found.items()
        if not finite(value) and f"{METRICS[name].label} (" not in noted
    ]
    if metrics.get("distance_scale", 0) is None and "distance_scale (" not in noted:
        unknown.append("distance_scale")
    if unknown:
        return f"not finite: {', '.join(unknown)}"
    return "" if np.isfinite(latent(run)).all() else "not finite: latent representation"


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def latent(run: Path) -> np.ndarray:
    """Latent representation of a run on disk."""
    with h5py.File(run / "adata.h5ad") as file:
        return np.asarray(file["obsm"]["X_isovi"][...])


def half_written(folder: Path) -> list[str]:
    """Files below a folder that are visible and not whole."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if _is_half(path)]


def _is_half(path: Path) -> bool:
    if path.is_symlink() or path.is_dir() or any(part.startswith(".") for part in path.parts):
        return False
    content = path.read_bytes()
    if path.suffix == ".png":
        return not content.endswith(b"IEND\xaeB`\x82")
    if path.suffix == ".html":
        return not content.rstrip().endswith(b"</html>")
    if path.suffix == ".h5ad":
        return not h5py.is_hdf5(path)
    if path.suffix == ".json":
        try:
            json.loads(content)
        except ValueError:
            return True
    return not content and path.suffix in (".csv", ".pt", ".ckpt")
