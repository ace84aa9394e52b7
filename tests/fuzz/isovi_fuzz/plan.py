"""Which cases a run of the fuzzer has: fixed by their number, and in shards."""

from __future__ import annotations

from pathlib import Path

from isovi_fuzz.cases import mutated_input
from isovi_fuzz.damages import DAMAGES, damaged_folder
from isovi_fuzz.inputs import MUTATIONS
from isovi_fuzz.kills import KILLS, killed
from isovi_fuzz.oracle import Outcome

Case = tuple[str, str, int]  # kind, name, seed
KINDS = {"inputs": tuple(MUTATIONS), "folders": tuple(DAMAGES), "kills": tuple(KILLS)}


def cases(numbers: dict[str, int], shard: tuple[int, int] = (0, 1)) -> list[Case]:
    """Cases of each kind, in turn over what there is of it, with the seeds 0, 1, ...

    The kinds are mixed, so that whatever part of the cases is done has its share of each.

    Parameters
    ----------
    numbers
        How many of each kind.
    shard
        Which part of how many.
    """
    found = {
        (kind, KINDS[kind][i % len(KINDS[kind])], i // len(KINDS[kind])): i / n
        for kind, n in numbers.items()
        for i in range(n)
    }
    return sorted(found, key=found.__getitem__)[shard[0] :: shard[1]]


def run(case: Case, folder: Path, base: Path) -> list[Outcome]:
    """Outcomes of a case, run in an empty folder."""
    kind, name, seed = case
    if kind == "inputs":
        return mutated_input(name, seed, folder)
    return (damaged_folder if kind == "folders" else killed)(name, seed, folder, base)
