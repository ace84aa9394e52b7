from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from isovi.workflow.compare import FIGURES, draw, pictures, read, table
from rich.console import Console

from isovi.data import io
from isovi.errors import InputError


def write_run(folder: Path, distortion: str, *, heldout: bool = True, **changes: float | None) -> Path:
    """A folder as ``fit`` leaves it, with made-up figures."""
    figures = {**{key: 1.25 + i for i, key in enumerate(FIGURES)}, **changes}
    everywhere = {key: value for key, value in figures.items() if key != "coordinate_error"}
    metrics = {"distortion": distortion, "train": everywhere, "all": {**everywhere, "morans_i": 0.5}}
    if heldout:
        metrics["heldout"] = figures
    (folder / "figures").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in ("shepard", "domains"):
        (folder / "figures" / f"{name}.png").touch()
    return folder


def printed(runs: list[Path]) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(table(runs))
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    found = next(line for line in text.splitlines() if name in line)
    return [cell.strip() for cell in found.strip("│").split("│")][1:]


def test_held_out_figures_stand_side_by_side(tmp_path: Path) -> None:
    other = write_run(tmp_path / "b", "none", reconstruction=123.456)
    runs = [write_run(tmp_path / "a", "constraint 0.2"), other]
    text = printed(runs)
    assert "Held-out spots" in text
    assert all(word in text for word in ("constraint 0.2", "none", str(runs[0]), str(runs[1])))
    assert row(text, "coordinate error") == ["1.25", "1.25"]
    assert row(text, "reconstruction") == ["2.25", "123.5"]
    assert row(text, "Moran") == ["7.25", "7.25"]


def test_all_spots_where_one_run_held_none_out(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", "none"), write_run(tmp_path / "b", "none", heldout=False)]
    text = printed(runs)
    assert "All spots" in text
    assert "coordinate error" not in text
    assert row(text, "Moran") == ["0.5", "0.5"]


def test_a_figure_that_could_not_be_taken_is_a_dash(tmp_path: Path) -> None:
    assert row(printed([write_run(tmp_path / "a", "none", spearman_distance=None)]), "Spearman") == ["-"]


def test_a_folder_named_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    assert "run[red]" in printed([write_run(tmp_path / "run[red]", "none")])


def test_pictures_are_listed_run_by_run(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, "none") for name in ("b", "a")]
    expected = [run / "figures" / f"{name}.png" for run in runs for name in ("domains", "shepard")]
    assert pictures(runs) == [str(path) for path in expected]


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.json"):
        read(tmp_path)


def test_a_picture_of_latents_is_drawn_of_the_same_spots_only(run: Any, tmp_path: Path) -> None:
    draw([run.out, run.out], tmp_path / "latents.png")
    assert (tmp_path / "latents.png").read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "other"
    shutil.copytree(run.out, other)
    adata = io.read(other / "adata.h5ad")
    adata.obs["isovi_split"] = "train"
    io.write_atomic(adata, other / "adata.h5ad")
    with pytest.raises(InputError, match="held out different spots"):
        draw([run.out, other], tmp_path / "refused.png")
    assert not (tmp_path / "refused.png").exists()
