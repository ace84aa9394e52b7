"""Who is best at what: ranks that are tested, and sentences that say what the numbers say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from isovi_bench import results, significance, tasks

UNSEEN = tasks.TASKS[0]
SECTIONS = tuple(f"section_{n}" for n in range(6))


def rows_of(values: dict[str, list[float]], metric: str = "coordinate_error", **more: str) -> pd.DataFrame:
    """Held-out values of some methods on as many data sets, two seeds of each."""
    about = {
        "set": "heldout",
        "kind": "spots",
        "split": "0.25",
        "shuffled": False,
        "settings": "{}",
        "decoder": "",
    }
    return pd.DataFrame(
        [
            about
            | more
            | {"label": name, "variant": name, "method": name, "metric": metric}
            | {"dataset": SECTIONS[n], "seed": seed, "value": value + 0.01 * seed}
            for name, each in values.items()
            for n, value in enumerate(each)
            for seed in (0, 1)
        ]
    )


WINS = {"isoscvi": [1.0] * 6, "pca": [2.0] * 6, "scvi": [3.0] * 6}


def test_ranks_are_means_over_data_sets_with_critical_differences() -> None:
    ranked = tasks.ranking(rows_of(WINS))
    assert list(ranked.ranks.index) == ["isoscvi", "pca", "scvi"] and list(ranked.ranks) == [1, 2, 3]
    assert ranked.datasets == 6
    assert ranked.p == pytest.approx(stats.friedmanchisquare([1] * 6, [2] * 6, [3] * 6).pvalue)
    assert ranked.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / 36), abs=1e-2)  # Demšar's table 5
    assert ranked.alike("isoscvi") == ["isoscvi", "pca"]


def test_a_larger_value_ranks_first_where_it_is_better() -> None:
    assert tasks.ranking(rows_of(WINS, metric="ari_own")).ranks.index[0] == "scvi"


def test_nothing_is_tested_or_called_significant_with_fewer_than_five_data_sets() -> None:
    few = {name: values[:4] for name, values in WINS.items()}
    ranked = tasks.ranking(rows_of(few))
    assert np.isnan(ranked.p) and np.isnan(ranked.critical)
    assert ranked.alike("isoscvi") == ["isoscvi", "pca", "scvi"]
    row = {"datasets": 4, "holm": 0.001}
    assert not significance.is_significant(row) and significance.is_significant(row | {"datasets": 5})
    (table,) = tasks.screens(rows_of(few))
    assert table.shown["not distinguishable from it"][0] == "not tested"


def test_a_method_that_lacks_data_sets_is_not_ranked_among_those_that_have_them() -> None:
    ranked = tasks.ranking(rows_of(WINS | {"graphst": [0.1, 0.1]}))
    assert "graphst" not in ranked.ranks and ranked.datasets == 6
    (board,) = tasks.boards(rows_of(WINS | {"graphst": [0.1, 0.1]}))
    last = board.shown.iloc[-1]
    assert last["method"] == "graphst" and last["mean rank"] == "-"


def test_a_data_set_that_few_methods_were_run_on_is_left_out() -> None:
    values = WINS | {name: [1.0] * 6 for name in ("graphst", "stagate", "banksy")}
    rows = rows_of(values)
    few = rows_of({"isoscvi": [1.0], "pca": [2.0]}).assign(dataset="another")
    ranked = tasks.ranking(pd.concat([rows, few]))
    assert ranked.datasets == 6 and set(ranked.ranks.index) == set(values)


def test_the_sentence_names_who_should_and_who_should_not() -> None:
    win, lose = (
        tasks.sentence(UNSEEN, rows_of(values)) for values in (WINS, WINS | {"pca": [0.5] * 5 + [2.0]})
    )
    assert (
        "Use isoVI if you want" in win
        and "than that of pca" in win
        and "6 of 6" in win
        and "not on" not in win
    )
    assert "Do not use isoVI" in lose and "5 of 6" in lose and "unless your data are like section_5" in lose


def test_variants_of_isovi_are_not_other_methods() -> None:
    rows = rows_of(WINS | {"isoscvi-whole": [0.5] * 6, "isovae": [1.5] * 6})
    rows.loc[rows["label"] == "isoscvi-whole", "method"] = "isoscvi"
    text = tasks.sentence(UNSEEN, rows)
    assert "than that of pca" in text and text.endswith(
        "isoVI with the settings of isoscvi-whole ranks first."
    )


def test_a_task_without_isovi_or_without_others_was_not_run() -> None:
    nowhere = {"isoscvi": [1.0] * 2, "pca": [np.nan] * 2 + [1.0] * 2}
    for values in ({"pca": [1.0] * 6, "scvi": [2.0] * 6}, {"isoscvi": [1.0] * 6}, nowhere):
        assert tasks.sentence(UNSEEN, rows_of(values)) == tasks.NOT_RUN


def test_sections_that_took_no_part_are_on_a_screen_of_their_own() -> None:
    both = rows_of(WINS).replace({"dataset": {"section_5": results.APART[0]}})
    seen, apart = tasks.screens(both)
    assert (seen.shown["data sets"][0], apart.shown["data sets"][0]) == ("5", "1")
    assert "took no part" in apart.title


def test_a_task_that_was_run_on_other_sections_only_is_not_said_to_be_to_come() -> None:
    domains = next(task for task in tasks.TASKS if task.name == "domains")
    measure = domains.measures[0]
    both = rows_of(WINS).replace({"dataset": {"section_5": results.APART[0]}})
    others = rows_of(WINS, measure.metric, set=measure.spots, kind=measure.kind)
    seen, apart = tasks.screens(pd.concat([both, others]))
    said = [table.shown.set_index("task")["decided by"] for table in (seen, apart)]
    assert said[0][domains.title] == measure.title and said[1][domains.title] == tasks.NONE_APART
    assert said[0]["Denoising"] == said[1]["Denoising"] == tasks.NOT_RUN


def test_the_page_of_a_task_has_them_apart_and_ranks_by_its_other_metrics() -> None:
    both = pd.concat([rows_of(WINS), rows_of(WINS, "spearman_distance")])
    both = both.replace({"dataset": {"section_5": results.APART[0]}})
    decided, apart, metrics = tasks.of_task(UNSEEN, both)
    assert "section_0" in decided.shown and results.APART[0] not in decided.shown
    assert list(apart.shown.columns[2:]) == [results.APART[0]] and "took no part" in apart.title
    ranks = metrics.shown.set_index("method")
    assert list(ranks["coordinate error"].loc[["isoscvi", "pca", "scvi"]]) == ["1.0", "2.0", "3.0"]
    assert list(ranks["Spearman of distances"].loc[["isoscvi", "pca", "scvi"]]) == ["3.0", "2.0", "1.0"]


def test_the_sentence_is_on_the_data_sets_that_it_is_asked_for() -> None:
    both = rows_of(WINS | {"pca": [2.0] * 5 + [0.5]}).replace({"dataset": {"section_5": results.APART[0]}})
    assert "5 of 5" in tasks.sentence(UNSEEN, both)
    assert tasks.sentence(UNSEEN, both, apart=True).startswith("Do not use isoVI")


def test_a_cost_of_many_times_is_told_as_such() -> None:
    costs = rows_of({"isoscvi": [500.0] * 6, "pca": [1.0] * 6}, "cpu_seconds", set="", kind="all")
    nothing = rows_of({"coordinates": [0.0] * 6}, "cpu_seconds", set="", kind="all")
    costs = pd.concat([costs, nothing])  # a reference that fits nothing is no other method
    (row,) = (row for row in tasks.screens(costs)[0].shown.to_dict("records") if row["task"] == "Cost")
    assert " times" in row["change of isoVI"] and "%" not in row["change of isoVI"]
