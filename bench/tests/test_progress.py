"""Jobs: what is done, failed and to come, and why."""

from __future__ import annotations

import pytest

from isovi_bench import results
from isovi_bench.datasets import DataSet
from isovi_bench.job import Job
from isovi_bench.progress import (
    LEFT_OUT,
    MEASURING,
    count,
    failures,
    jobs,
    reason,
    seconds,
    seeds,
    table,
    unfinished,
    without_counts,
)


@pytest.fixture
def states(made, make):
    """As planned, with two more seeds of PCA that have not run."""
    plan = results.jobs_in(made)
    more = results.jobs_in(make(methods=("pca",), seeds=(2, 3)))
    return jobs(made, results.pd.concat([plan, more], ignore_index=True))


def test_every_planned_job_has_a_state(states, made):
    assert count(states) == {
        "all": made["job"].nunique() + 6,
        "done": made["job"].nunique() - 1,
        "failed": 1,
        "to come": 6,
    }


def test_seeds_so_far(states):
    of = {name: seeds(states[states["label"] == name]) for name in ("pca", "vae", "graphpca")}
    assert of == {"pca": "2 of 4", "vae": "2", "graphpca": "1-2 of 2"}
    rows = table(states).shown.set_index("method")
    assert rows.loc["pca"].to_dict() == {
        "data sets": "3",
        "seeds": "2 of 4",
        "done": "6",
        "failed": "0",
        "to come": "6",
    }


def test_sentences_name_what_lacks(states):
    assert unfinished(states) == [
        "pca: 6 of 12 jobs done (2 of 4 seeds a data set), 6 to come.",
        "graphpca: 5 of 6 jobs done (1-2 of 2 seeds a data set), 1 failed.",
    ]


def test_methods_that_lack_the_same_share_a_sentence(states):
    states.loc[states["label"].isin(["vae", "scvi"]) & (states["seed"] == 1), "status"] = "to come"
    assert unfinished(states)[1] == "vae; scvi: each 3 of 6 jobs done (1 of 2 seeds a data set), 3 to come."


def test_failures_tell_why_but_not_where_the_machine_keeps_its_files(states):
    rows = failures(states)
    assert rows is not None
    assert rows.shown.to_dict("records") == [
        {
            "method": "graphpca",
            "data sets": "starmap",
            "jobs": "1",
            "reason": "RuntimeError: a.h5ad | no 50 % of genes",
        }
    ]
    assert failures(states[states["status"] == "done"]) is None


def test_spots_left_out_are_counted_by_split(made):
    assert without_counts(made) is None
    of = made[(made["dataset"] == "starmap") & (made["metric"] == made["metric"].iloc[0])]
    rows = of.drop_duplicates("job").assign(set="", metric=LEFT_OUT, value=3.0)
    table = without_counts(results.pd.concat([made, rows]))
    assert table is not None
    shown = table.shown.to_dict("records")
    assert {(row["data set"], row["spots left out"]) for row in shown} == {("starmap", "3 of 500")}
    assert sum(int(row["jobs"]) for row in shown) == len(rows)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no file '/a/b/c.h5ad' or\n  so", "no file 'c.h5ad' or so"),
        ("1/2 and/or 3", "1/2 and/or 3"),
        ("x" * 300, "x" * 197 + "..."),
    ],
)
def test_reason(message, shown):
    assert reason(message) == shown


def test_a_job_is_reckoned_by_the_median_cost_a_spot_of_its_method(make):
    costs = make(methods=("pca", "scvi"))
    rows = costs[costs["metric"] == "seconds"]
    rows = [
        rows.assign(
            metric="cpu_seconds", value=[500.0 if name == "scvi" else 5.0 for name in rows["method"]]
        ),
        rows[rows["method"] == "scvi"].assign(metric="epochs", value=100.0),
    ]
    costs = results.pd.concat([costs, *rows])  # of 500 spots

    def job(method: str, max_epochs: int | None = None) -> Job:
        dataset = DataSet(name="a", path=("/a",))
        return Job(dataset, "d", 1000, method, method, "{}", 0, "0.25", False, max_epochs=max_epochs)

    assert seconds([job("pca")], costs) == pytest.approx(10 + MEASURING)
    assert seconds([job("scvi"), job("scvi", 50)], costs) == pytest.approx(1000 + 500 + 2 * MEASURING)
    assert seconds([job("unknown")], costs) == seconds([job("scvi")], costs)
    assert seconds([job("scvi", 400)], costs) == seconds([job("scvi")], costs)
