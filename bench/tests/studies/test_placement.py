from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isovi.errors import InputError
from isovi_bench.studies import placement

METHODS = ["isoscvi", "scvi", "scvi-default"]


def places(coordinates: np.ndarray, variant: str) -> np.ndarray:
    """isoVI's latent is where the spots are, scVI's says nothing of it."""
    rng = np.random.default_rng(0)
    if variant == "isoscvi":
        return 2 * coordinates + 0.1 * rng.normal(size=coordinates.shape)
    return rng.normal(size=coordinates.shape)


@pytest.fixture
def rows(ran, tissue) -> pd.DataFrame:
    options = ran(places, datasets=[tissue], methods=METHODS, seeds=[0, 1], shuffled=[0])
    found = placement.measure(options)
    written = pd.read_csv(options.out / placement.RESULTS, dtype={"split": str})
    pd.testing.assert_frame_equal(written, found, check_dtype=False)
    return found


def test_held_out_spots_are_placed_by_a_latent_that_knows_where_they_are(rows) -> None:
    median = rows.groupby("method")["median_error"].mean()
    assert median["latent"] < 1 < 3 < median["10-NN, scVI"]
    assert median["joint"] < median["expression"]
    assert set(placement.WAYS) | {"10-NN, plain", "ridge, PCA-50", "random forest, PCA-10"} <= set(
        median.index
    )
    assert set(rows["seed"]) == {0, 1} and (rows.groupby(["seed", "method"]).size() == 1).all()
    joint = rows[rows["method"] == "joint"]
    assert (joint["n_cells"] == 75).all() and joint["coverage"].between(0.6, 1).all()


def test_the_report_has_errors_by_section_and_coverage(rows) -> None:
    errors, coverage = placement.report(rows).split("\n\n")
    assert errors.splitlines()[0] == "| method | tissue | ratio to plain | ratio to scVI |"
    assert "| 10-NN, plain | " in errors and " | 1.0 | " in errors
    assert coverage.splitlines()[-1].split(" | ")[7] == "2"  # fits


def test_without_baselines_only_latents_of_ours_are_needed(ran, tissue) -> None:
    options = ran(places, datasets=[tissue], methods=["isoscvi"])
    assert set(placement.measure(options, baselines=False)["method"]) == set(placement.WAYS)
    with pytest.raises(InputError, match="no trial with all of isoscvi, scvi, scvi-default"):
        placement.measure(options)


def test_a_latent_that_was_not_kept_is_named(ran, tissue) -> None:
    options = ran(places, keep=False, datasets=[tissue], methods=METHODS)
    with pytest.raises(InputError, match=r"no latent of isoscvi on tissue, split 0\.25, seed 0"):
        placement.measure(options)


def test_several_sections_are_refused(ran, tissue) -> None:
    two = tissue | {"section_key": "section"}
    two["simulate"] = tissue["simulate"] | {"n_sections": 2}
    with pytest.raises(InputError, match="tissue has several sections"):
        placement.measure(ran(places, datasets=[two], methods=METHODS))


def test_novosparc_is_run_by_its_own_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "novosparc_places.py"
    script.write_text(
        "import sys, numpy as np\n"
        "given = np.load(sys.argv[1])\n"
        "np.savez(sys.argv[2], mean=given['query'] @ given['reference'].T @ given['positions'])\n"
    )
    monkeypatch.setattr(placement, "data", lambda *_: script)
    reference, positions, query = np.eye(3), np.arange(6.0).reshape(3, 2), np.array([[0.0, 1.0, 0.0]])
    found = placement.novosparc_places(Path(sys.executable), reference, positions, query)
    assert found["mean"].tolist() == [[2.0, 3.0]]
