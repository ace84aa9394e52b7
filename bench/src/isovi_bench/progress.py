"""Which jobs are done, which failed and why, and which are still to come."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from isovi_bench.job import Job
from isovi_bench.rendering import Table
from isovi_bench.results import DONE, FAILED, label, ordered

MEASURING = (
    15.0  # processor seconds of the start of a process and its metrics, as on sections of some 1,000 spots
)
LEFT_OUT = "left_out"  # number of spots left out, of the whole job
_LONGEST = 200  # characters of a reason
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\":]+/)+")  # of the machine that the job ran on


def jobs(frame: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """One row per planned job, with its label, status ("done", "failed" or "to come") and message."""
    ended = frame.drop_duplicates("job")[["job", "status", "message"]]
    together = plan.merge(ended, on="job", how="left").fillna({"status": "to come", "message": ""})
    names = zip(together["variant"], together["shuffled"], strict=True)
    return together.assign(label=[label(*pair) for pair in names])


def count(states: pd.DataFrame) -> dict[str, int]:
    """Number of jobs: all, done, failed, to come."""
    found = states["status"].value_counts()
    return {"all": len(states)} | {state: int(found.get(state, 0)) for state in (DONE, FAILED, "to come")}


def table(states: pd.DataFrame) -> Table:
    """Jobs and seeds of each method."""
    parts = dict(tuple(states.groupby("label")))
    rows = [_row(name, parts[name]) for name in ordered(set(parts))]
    return Table("jobs", "Jobs and seeds of each method", pd.DataFrame(rows), pd.DataFrame(rows))


def _row(name: str, part: pd.DataFrame) -> dict[str, str]:
    numbers = count(part)
    return {
        "method": name,
        "data sets": str(part.loc[part["status"] == DONE, "dataset"].nunique()),
        "seeds": seeds(part),
        **{state: str(numbers[state]) for state in (DONE, FAILED, "to come")},
    }


def seeds(part: pd.DataFrame) -> str:
    """Seeds of a method that are done on each of its data sets: "5", or "3 of 5", or "2-4 of 5"."""
    done = part[part["status"] == DONE].groupby(["dataset", "split"])["seed"].nunique()
    planned = part.groupby(["dataset", "split"])["seed"].nunique()
    done = done.reindex(planned.index, fill_value=0)
    low, high, most = int(done.min()), int(done.max()), int(planned.max())
    if low == high == most:
        return str(most)
    return f"{low} of {most}" if low == high else f"{low}-{high} of {most}"


def unfinished(states: pd.DataFrame) -> list[str]:
    """Sentences on the methods that lack jobs, those that lack the same in one."""
    parts = dict(tuple(states.groupby("label")))
    alike: dict[str, list[str]] = {}
    for name in ordered(set(parts)):
        if (parts[name]["status"] != DONE).any():
            alike.setdefault(_lack(parts[name]), []).append(name)
    return [f"{'; '.join(names)}: {'each ' * (len(names) > 1)}{lack}." for lack, names in alike.items()]


def _lack(part: pd.DataFrame) -> str:
    numbers = count(part)
    lacks = [f"{numbers[state]} {state}" for state in (FAILED, "to come") if numbers[state]]
    done = f"{numbers[DONE]} of {numbers['all']} jobs done ({seeds(part)} seeds a data set)"
    return f"{done}, {', '.join(lacks)}"


def seconds(jobs: Sequence[Job], costs: pd.DataFrame) -> float:
    """Processor seconds that jobs will take, by what their methods took.

    Parameters
    ----------
    jobs
        To be run.
    costs
        Tidy results. A method takes its median of processor seconds a spot, whatever its settings and the
        genes; one that was never measured, the largest of any. Where a job has fewer epochs than its method
        took, it takes their share. Metrics add :data:`MEASURING` to each job.
    """
    rows = costs[costs["status"] == DONE].pivot_table(
        index=["job", "method", "n_obs"], columns="metric", values="value"
    )
    rows = rows.reindex(columns=["cpu_seconds", "epochs"]).reset_index()
    rows["cpu_seconds"] /= rows["n_obs"]
    medians = rows.groupby("method")[["cpu_seconds", "epochs"]].median()
    most = pd.Series({"cpu_seconds": medians["cpu_seconds"].max(), "epochs": np.nan})

    def of(job: Job) -> float:
        each, epochs = medians.loc[job.method] if job.method in medians.index else most
        share = min(1.0, job.max_epochs / epochs) if job.max_epochs and epochs > 0 else 1.0
        return float(each * job.n_obs * share + MEASURING)

    return sum(map(of, jobs))


def failures(states: pd.DataFrame) -> Table | None:
    """Failed jobs by method and reason; ``None`` if there are none."""
    failed = states[states["status"] == FAILED].copy()
    if failed.empty:
        return None
    failed["reason"] = failed["message"].map(reason)
    rows = [_failure(name, why, part) for (name, why), part in failed.groupby(["label", "reason"])]
    return Table("failures", "Jobs that failed, and why", pd.DataFrame(rows), failed)


def _failure(name: str, why: str, part: pd.DataFrame) -> dict[str, str]:
    where = ", ".join(sorted(set(part["dataset"])))
    return {"method": name, "data sets": where, "jobs": str(len(part)), "reason": why}


def without_counts(frame: pd.DataFrame) -> Table | None:
    """Spots that jobs left out, by data set and split; ``None`` if there are none."""
    rows = frame[frame["metric"] == LEFT_OUT]
    if rows.empty:
        return None
    by = rows.groupby(["dataset", "split", "value", "n_obs"], as_index=False)["job"].nunique()
    shown = pd.DataFrame(
        {
            "data set": by["dataset"],
            "split": by["split"],
            "spots left out": [
                f"{left:.0f} of {n_obs}" for left, n_obs in zip(by["value"], by["n_obs"], strict=True)
            ],
            "jobs": by["job"].astype(str),
        }
    )
    title = "Spots without a count in the genes chosen, which were left out"
    return Table("left_out", title, shown, rows)


def reason(message: str) -> str:
    """A message without the folders of the machine, in one line."""
    line = " ".join(_FOLDERS.sub("", message).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
