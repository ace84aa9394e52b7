"""One case: an input, a damaged folder or a kill, the commands on it, and their outcomes."""

from __future__ import annotations

import json
from pathlib import Path

from isovi_fuzz import inputs
from isovi_fuzz.oracle import Outcome, changes, judge, last_lines, run_problem, snapshot
from isovi_fuzz.process import call, isovi

INSPECT_SECONDS, FIT_SECONDS = 120, 300


def mutated_input(
    name: str, seed: int, folder: Path, verbs: tuple[str, ...] = ("inspect", "fit")
) -> list[Outcome]:
    """Inspect and fit one mutated input.

    Parameters
    ----------
    name, seed
        The mutation, and the seed of all that is drawn.
    folder
        Empty; gets the input, and what the commands write.
    """
    made = call(inputs.write, str(folder), name, seed, folder=folder, timeout=INSPECT_SECONDS)
    if made.code != 0:
        return [Outcome(name, seed, "write", "broken case", made.text[-600:])]
    case = json.loads((folder / "case.json").read_text())
    if case["input"].endswith(".pickle"):
        return [_fit_in_memory(name, seed, folder, case["input"])] if "fit" in verbs else []
    return [_on_input(verb, name, seed, folder, case) for verb in verbs]


def _on_input(verb: str, name: str, seed: int, folder: Path, case: dict) -> Outcome:
    before, out = snapshot(folder / "in"), folder / "out"
    out.mkdir(exist_ok=True)
    fit = ("--out", "out/run", *inputs.FIT, "--holdout", "0.25", *case["options"])
    words = (verb, case["input"], *(fit if verb == "fit" else ()))
    ended = isovi(*words, folder=folder, timeout=FIT_SECONDS if verb == "fit" else INSPECT_SECONDS)
    kind, detail = judge(ended)
    done = verb == "fit" and kind == "success"
    if done and (problem := run_problem(out / "run")):
        kind, detail = "not finite" if problem.startswith("not finite") else "incomplete", problem
    if kind in ("success", "refused", "not finite"):
        wrong = _untouched(folder, before, {"run"} if done else set())
        if kind == "refused" and wrong == ("leftover", "run.partial.ckpt"):
            wrong = "refused late", last_lines(ended.text, 1)
        kind, detail = wrong or (kind, detail)
    return Outcome(name, seed, verb, kind, detail)


def _untouched(folder: Path, before: dict[str, str], expected: set[str]) -> tuple[str, str] | None:
    """What is wrong around a command that ended well: changed inputs and leftovers."""
    changed = changes(before, snapshot(folder / "in"))
    if changed:
        return "input changed", ", ".join(changed)
    left = {path.name for path in (folder / "out").iterdir()} - expected
    left |= {f"tmp/{path.name}" for path in (folder / "tmp").iterdir()}
    return ("leftover", ", ".join(sorted(left))) if left else None


def _fit_in_memory(name: str, seed: int, folder: Path, file: str) -> Outcome:
    ended = call(inputs.fit_in_memory, file, folder=folder, timeout=FIT_SECONDS)
    kind, detail = judge(ended)
    return Outcome(name, seed, "isovi.fit", kind, detail)
