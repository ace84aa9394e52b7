"""Tables as Markdown, CSV and LaTeX, and marked blocks of pages that are written by commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from isovi.errors import InputError

_TEX = str.maketrans(
    {character: f"\\{character}" for character in "%&#_$"} | {"α": r"$\alpha$", "^": r"\^{}"}
)


@dataclass(frozen=True)
class Table:
    """A table to print.

    Attributes
    ----------
    name
        Of its files.
    title
        Its caption.
    shown
        Cells as text, as they are printed.
    data
        The numbers behind them, one row for each.
    notes
        Sentences to be read with it.
    """

    name: str
    title: str
    shown: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def markdown(self) -> str:
        """The cells, without title and notes."""
        return markdown(self.shown)

    @property
    def latex(self) -> str:
        """A floating table with rules of the booktabs package."""
        caption = " ".join([f"{self.title}.", *self.notes]).translate(_TEX)
        return self.shown.to_latex(
            index=False, escape=True, caption=caption, label=f"tab:{self.name}", position="htbp"
        )

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.md, NAME.csv and NAME.tex, and return their paths."""
        notes = "\n".join(self.notes)
        texts = {
            "md": f"**{self.title}**\n\n{self.markdown}\n" + (f"\n{notes}\n" if notes else ""),
            "csv": self.data.to_csv(index=False, float_format="%.6g"),
            "tex": self.latex,
        }
        paths = [folder / f"{self.name}.{ending}" for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths


def markdown(frame: pd.DataFrame) -> str:
    """The columns of a frame as a Markdown table; its index is left out."""
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(object).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def around(place: str, page: Path) -> tuple[str, str]:
    """The text of a page before and after a marked block, with the marks.

    Parameters
    ----------
    place
        Name of the block, which is between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
    page
        File.

    Raises
    ------
    InputError
        If the page cannot be read, or does not have both marks once.
    """
    if not page.is_file():
        raise InputError(f"{page} was given.", "A page is a file of the docs.", "Name one that exists.")
    text, marks = page.read_text(encoding="utf-8"), [f"<!-- {place}: {end} -->" for end in ("begin", "end")]
    if any(text.count(mark) != 1 for mark in marks):
        raise InputError(
            f"{page} was given.", f"A page needs the marks {' and '.join(marks)}, once each.", "Add them."
        )
    before, _, rest = text.partition(marks[0])
    return before + marks[0], marks[1] + rest.partition(marks[1])[2]


def insert(text: str, place: str, page: Path) -> None:
    """Replace the text of a marked block of a page, see :func:`around`."""
    before, after = around(place, page)
    page.write_text(f"{before}\n\n{text.strip()}\n\n{after}", encoding="utf-8")


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def mean_sd(mean: float, sd: float, n: int) -> str:
    """Mean (standard deviation) over trials; a single trial has none."""
    spread = "-" if n < 2 else f"{sd:.{_decimals(mean)}f}"
    return f"{number(mean)} ({spread})"


def number(value: float) -> str:
    """With as many decimals as its size makes sense of."""
    return "-" if pd.isna(value) else f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return sum(abs(value) < limit for limit in (1, 10, 10_000))


def signed(value: float) -> str:
    """With its sign, two decimals."""
    return "-" if pd.isna(value) else _zero(f"{value:+.2f}")


def percent(value: float) -> str:
    """A relative change, signed; small ones with more digits."""
    if pd.isna(value):
        return "-"
    decimals = sum(abs(value) < limit for limit in (0.1, 0.01))
    return f"{_zero(f'{100 * value:+.{decimals}f}')}%"


def _zero(text: str) -> str:
    """Without the sign of a number that was rounded to zero."""
    return text if text.strip("+-0.") else text.lstrip("+-")
