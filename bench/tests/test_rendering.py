"""Tables as text: nothing in a cell breaks Markdown or LaTeX."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from isovi.errors import InputError
from isovi_bench.rendering import Table, insert, mean_sd, number, percent, signed


@pytest.fixture
def table() -> Table:
    shown = pd.DataFrame({"data set": ["her2st_H1", "a|b"], "50 % & more": ["1.0 (0.1)", "#2_$"]})
    data = pd.DataFrame({"dataset": ["her2st_H1", "a|b"], "value": [1 / 3, np.nan]})
    return Table("one_table", "25 % of dlpfc_151673, α", shown, data, ("p below 2 / 2^n.",))


def test_markdown_keeps_its_columns_whatever_the_cells_hold(table):
    lines = table.markdown.splitlines()
    assert lines[0] == "| data set | 50 % & more |"
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3, 3]
    assert r"a\|b" in lines[3]


def test_latex_escapes_its_special_characters_in_cells_and_caption(table):
    latex = table.latex
    body = latex.replace("tab:one_table", "")
    assert r"her2st\_H1" in latex and r"50 \% \& more" in latex and r"\#2\_\$" in latex
    assert r"\caption{25 \% of dlpfc\_151673, $\alpha$. p below 2 / 2\^{}n.}" in latex
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1


def test_files_hold_text_and_numbers(table, tmp_path):
    paths = table.write(tmp_path)
    assert sorted(path.name for path in paths) == ["one_table.csv", "one_table.md", "one_table.tex"]
    assert (tmp_path / "one_table.csv").read_text() == "dataset,value\nher2st_H1,0.333333\na|b,\n"
    assert (tmp_path / "one_table.md").read_text().startswith("**25 % of dlpfc_151673, α**\n\n| data set")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.4712, "0.471"),
        (-0.04, "-0.040"),
        (7.326, "7.33"),
        (1935.34, "1935.3"),
        (12345.6, "12346"),
        (np.nan, "-"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_spread_has_the_decimals_of_the_mean_and_is_missing_for_one_trial():
    assert mean_sd(7.326, 0.2129, 3) == "7.33 (0.21)"
    assert mean_sd(0.4712, np.nan, 1) == "0.471 (-)"


@pytest.mark.parametrize(
    ("value", "in_percent", "with_sign"),
    [
        (0.1234, "+12%", "+0.12"),
        (-0.0456, "-4.6%", "-0.05"),
        (0.00123, "+0.12%", "0.00"),
        (-0.000001, "0.00%", "0.00"),
        (np.nan, "-", "-"),
    ],
)
def test_changes(value, in_percent, with_sign):
    assert percent(value) == in_percent
    assert signed(value) == with_sign


def test_a_page_is_written_between_its_marks(tmp_path):
    page, marks = tmp_path / "page.md", ("<!-- times: begin -->", "<!-- times: end -->")
    page.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    for _ in range(2):
        insert("new\n", "times", page)
        assert page.read_text() == f"before\n{marks[0]}\n\nnew\n\n{marks[1]}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(InputError, match="needs the marks <!-- times: begin"):
        insert("new", "times", page)
    assert page.read_text() == "no marks"
    with pytest.raises(InputError, match="Name one that exists"):
        insert("new", "times", tmp_path / "none.md")
