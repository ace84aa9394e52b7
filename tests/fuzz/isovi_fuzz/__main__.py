"""Run the fuzzer in full: ``python -m isovi_fuzz``, which ``make fuzz`` does."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isovi_fuzz import plan
from isovi_fuzz.fixtures import make
from isovi_fuzz.oracle import Outcome

NUMBERS = {"inputs": 1000, "folders": 300, "kills": 100}


def main(arguments: list[str] | None = None) -> int:
    """Run all cases that have no outcome yet; 1 if an outcome is not good."""
    asked = _parser().parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    part, parts = (int(one) for one in asked.shard.split("/"))
    numbers = {kind: getattr(asked, kind) for kind in NUMBERS}
    base = make(asked.out / "base")
    file = asked.out / f"outcomes-{part}-of-{parts}.jsonl"
    done = (
        {tuple(json.loads(line)["of"]) for line in file.read_text().splitlines()} if file.exists() else set()
    )
    left = [case for case in plan.cases(numbers, (part - 1, parts)) if case not in done]
    with file.open("a") as log, ThreadPoolExecutor(asked.jobs) as pool:
        for i, (case, found) in enumerate(pool.map(lambda one: (one, _run(one, asked.out, base)), left), 1):
            for outcome in found:
                log.write(json.dumps({"of": case, **vars(outcome)}) + "\n")
                log.flush()
                if not outcome.is_good:
                    say(f"{outcome.case}, seed {outcome.seed}, {outcome.group}")
            say(f"{i} of {len(left)}")
    found = [
        json.loads(line)
        for one in asked.out.glob("outcomes-*.jsonl")
        for line in one.read_text().splitlines()
    ]
    say(table(found))
    return int(any(one["kind"] not in ("success", "refused") for one in found))


def say(text: str) -> None:
    """Print, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def table(found: list[dict]) -> str:
    """Outcomes by kind of case and command, as a table of Markdown."""
    kinds = sorted(
        {one["kind"] for one in found}, key=lambda kind: (kind not in ("success", "refused"), kind)
    )
    rows = Counter((one["of"][0], one["verb"], one["kind"]) for one in found)
    lines = [f"| cases | command | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
    for of, verb in sorted({row[:2] for row in rows}):
        lines.append(f"| {of} | {verb} | {' | '.join(str(rows[of, verb, kind]) for kind in kinds)} |")
    return "\n".join(lines)


def _run(case: plan.Case, out: Path, base: Path) -> list[Outcome]:
    """Outcomes of one case; what it was run on is kept if one is not good."""
    folder = Path(tempfile.mkdtemp(dir=out, prefix="case-"))
    try:
        found = plan.run(case, folder, base)
        if not all(outcome.is_good for outcome in found):
            kept = out / "offending" / f"{case[0]} {case[1]} {case[2]}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(folder, kept)
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="isovi_fuzz", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz"), help="folder of outcomes and offending inputs"
    )
    for kind, number in NUMBERS.items():
        parser.add_argument(
            f"--{kind}", type=int, default=number, help=f"number of {kind} (default: {number})"
        )
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--shard", default="1/1", help="which part of how many, such as 2/4")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
