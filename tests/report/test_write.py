"""What is written: one page without network, the same record as JSON, and never at a run's expense."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from isovi import cli, files, pipeline
from isovi.errors import InputError
from isovi.model.objective import Constraint
from isovi.pl import _data
from isovi.report import render, write
from isovi.report.summarise import Report, facts, summarise
from isovi.report.write import attempt, report
from isovi.run import BACKBONES, Run

MARKUP = "</script><b>"  # the name of a section, see conftest.py
RESOURCES = {"src", "href", "srcset", "data", "action", "poster"}


class Links(HTMLParser):
    """What a page would load, and its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.labelled: set[str] = set()

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [value or "" for name, value in attrs if name in RESOURCES]
        self.ids.add(found.get("id") or "")
        self.labelled.add(found.get("for") or "")


@pytest.fixture(scope="module")
def page(written: Report, folder: Path) -> str:  # noqa: ARG001  # written first
    return (folder / "report.html").read_text()


def test_the_page_loads_nothing(page: str) -> None:
    links = Links()
    links.feed(page)
    assert [target for target in links.targets if not target.startswith(("#", "data:"))] == []
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in styles and "@import" not in styles
    assert "color" in links.labelled & links.ids


def test_a_report_shows_its_verdict_in_python(written: Report) -> None:
    said = repr(written).splitlines()
    assert said[0].startswith("Report of ")
    assert [line.strip() for line in said[1:]] == written.words()


def test_sentences_of_captions_are_apart(page: str) -> None:
    captions = re.findall(r'<p class="caption">(.*?)</p>', page, re.DOTALL)
    assert any("drawn in the same way. The image is JPEG" in " ".join(one.split()) for one in captions)
    assert [one for one in captions if re.search(r"[a-z)]\.[A-Z]", one)] == []
    assert re.search(r"<p class=\"lead\">[\d,]+ spots \([\d,]+ training, ", page)


def test_names_from_the_data_stay_text(page: str, written: Report) -> None:
    assert any("</script><b>" in name for name, _, _ in written.spots.sections)
    assert "</script><b>" not in page
    assert "\\u003c/script\\u003e\\u003cb\\u003e" in page


def test_the_json_is_what_the_page_says(written: Report, folder: Path) -> None:
    told = json.loads((folder / "report.json").read_text())
    assert [one["text"] for one in told["verdict"]] == [one.text for one in written.summary.verdict]
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = {row["key"]: row for row in told["metrics"]}
    assert rows["coordinate_error"]["heldout"] == metrics["heldout"]["coordinate_error"]
    assert rows["coordinate_error"]["train"] is None
    assert rows["relative_distortion"]["train"] == metrics["train"]["relative_distortion"]
    assert told["facts"]["Genes"] == f"{metrics['n_genes']:,}"


def test_the_plain_backbone_stands_in_the_table(written: Report, page: str, plain_folder: Path) -> None:
    metrics = json.loads((plain_folder / "metrics.json").read_text())
    row = next(row for row in written.summary.metrics if row.key == "reconstruction")
    assert row.plain == metrics["heldout"]["reconstruction"]
    assert "plain, held out" in page
    assert written.summary.verdict[-1].title == "Compared with the plain backbone"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed is 0 and 1"),
        ({}, "their inputs are different files"),
        ({"holdout": 0.3, "seed": 3}, "holdout is 0.4 and 0.3; seed is 0 and 3"),
    ],
)
def test_runs_on_other_spots_are_not_compared(folder: Path, change: dict[str, Any], words: str) -> None:
    run, other = Run.read(folder), Run.read(folder)
    other.settings = replace(other.settings, **change)
    if not change:
        other.provenance = replace(other.provenance, sha256="0")
    with pytest.raises(InputError, match=f"differ: {words}"):
        summarise(run, other)


def test_runs_that_held_out_other_spots_are_not_compared(folder: Path) -> None:
    """Such as runs with another min_counts: all settings are the same."""
    run, other = Run.read(folder), Run.read(folder)
    other.provenance = replace(other.provenance, source={**other.provenance.source, "min_counts": 30})
    with pytest.raises(InputError, match="differ: min_counts is None and 30"):
        summarise(run, other)


def test_a_folder_without_a_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        report(tmp_path)
    with pytest.raises(InputError, match=r"holds no run\.json"):
        report(folder, beside=tmp_path / "nothing")


def test_without_held_out_spots_and_sections(
    tissue_file: Path, fit: Callable[..., Path], tmp_path: Path, unsealed: Callable[[Path], Path]
) -> None:
    run = fit(tissue_file, tmp_path / "run", holdout=0.0, max_epochs=1, label_key=None)
    (unsealed(run) / "history.csv").unlink()  # as of a run of an earlier version
    found = report(run)
    assert [curve.name for curve in found.summary.profile.curves] == ["training"]
    assert found.spots.sections == ()
    assert "keeps no history" in (run / "report.html").read_text()


def test_5000_spots_are_less_than_5_megabytes(page_of: Callable[[int], str]) -> None:
    assert len(page_of(5_000).encode()) < 5e6


def test_a_spot_alone_and_few_pairs_do_no_harm(written: Report) -> None:
    """No ellipses, no pairs, no history, no profile: the page leaves out what there is not."""
    summary = replace(
        written.summary,
        history={},
        profile=replace(written.summary.profile, curves=[], low=None, high=None),
        anisotropy={},
    )
    page = render.html(replace(written, summary=summary, shepard=(), ellipses=()))
    assert "plot-tissue" in page and "plot-profile" not in page and "Ellipses" not in page


def test_how_the_fit_was_called_is_there_if_it_is_known(written: Report, page: str) -> None:
    assert "isovi fit tissue.h5ad" in page
    unknown = replace(written, summary=replace(written.summary, call=""))
    assert 'id="command"' not in render.html(unknown)


def test_a_held_out_section_has_no_scale_of_its_own(
    tissue_file: Path, fit: Callable[..., Path], tmp_path: Path
) -> None:
    """In memory its λ is NaN, in metrics.json null; the spots are drawn with the λ of the others."""
    distortion = Constraint(0.2, per_section=True)
    asked = {"section_key": "section", "holdout": f"section:{MARKUP}", "distortion": distortion}
    run = Run.read(fit(tissue_file, tmp_path / "run", max_epochs=1, **asked))
    scale = run.metrics["distance_scale"]
    (trained,) = set(scale) - {MARKUP}
    assert scale[MARKUP] is None and scale[trained] > 0
    found = report(tmp_path / "run")
    assert f"{MARKUP}: not trained on" in found.summary.facts["Scale λ"]
    assert [density.name for density in found.shepard] == ["held out", "training"]
    assert all(density.counts.sum() > 0 for density in found.shepard)
    for missing in (None, float("nan")):
        by_spot = _data.spot_scale({**scale, MARKUP: missing}, run.spots, default=9.0)
        assert by_spot == pytest.approx(np.full(300, scale[trained]))
    files.draw(run, tmp_path / "plots")
    assert {file.stem for file in (tmp_path / "plots").iterdir()} == {
        "domains",
        "latent",
        "history",
        "shepard",
    }


def test_a_report_names_the_model_of_every_backbone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "another", type("IsoAnother", (), {}))
    run = Run.read(folder)
    assert facts(run)["Model"].startswith("IsoSCVI, ")
    run.settings = replace(run.settings, backbone="another")
    assert facts(run)["Model"].startswith("IsoAnother, ")


def test_a_run_of_the_backbone_itself_has_plots_and_a_report(tissue_file: Path, tmp_path: Path) -> None:
    """It has no λ: the Shepard plot takes the one that fits the training pairs best."""
    adata = anndata.io.read_h5ad(tissue_file)
    run = pipeline.fit(adata, distortion=None, holdout=0.4, n_latent=4, max_epochs=1, progress=False)
    assert run.metrics["distance_scale"] is None
    found = summarise(run)
    assert found.summary.title == "run" and found.summary.call.startswith("isovi.fit(adata, ")
    assert found.summary.facts["Distortion"] == "none, the plain backbone"
    assert set(found.summary.history) == {"elbo"}
    training = found.shepard[1]
    middle = len(training.median) // 2
    assert training.median[middle] == pytest.approx(training.middle[middle], rel=0.5)
    files.draw(run, tmp_path / "plots")
    assert (tmp_path / "plots" / "shepard.png").is_file()


# ---------------------------------------------------------------------------- the command line


def isovi(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_the_verb_says_the_verdict_and_leaves_other_files_as_they_were(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("report.*"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, said = isovi("report", run)
    assert code == 0
    assert {path: path.read_bytes() for path in before} == before
    assert "Held-out spots" in said and said.rstrip().endswith("report.html")
    assert (run / "report.html").is_file()


def test_the_verb_refuses_other_folders(tmp_path: Path) -> None:
    code, said = isovi("report", tmp_path)
    assert code == 2 and "holds no run.json" in said


def test_a_report_that_fails_leaves_the_run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(write, "report", fail)
    assert (
        attempt(folder) == f"The report was not written (no room). The run is kept: try isovi report {folder}"
    )
    assert anndata.io.read_h5ad(folder / "adata.h5ad").n_obs == 300
