"""Data at the edge of what can be fitted: refused before training, or fitted, saying what is not measured."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import isovi
from isovi import InputError, files
from isovi.cli.tables import certified
from isovi.data import check
from isovi.diagnose import diagnose
from isovi.errors import IsoviWarning
from isovi.pipeline import UNMEASURED
from isovi.report.write import report
from isovi.run import Run, Settings
from isovi.simulate import simulate

PLACES = simulate("layers", n_obs=80, n_genes=30, seed=0).obsm["spatial"]


def tissue(positions: np.ndarray = PLACES, counts: Any = None) -> AnnData:
    adata = simulate("layers", n_obs=80, n_genes=30, seed=0)
    adata.obsm["spatial"] = positions
    if counts is not None:
        adata.X = counts
    return adata


def with_first(value: float) -> np.ndarray:
    positions = PLACES.copy()
    positions[0, 0] = value
    return positions


def all_but_one_alike() -> np.ndarray:
    counts = np.ones((80, 30), np.float32)
    counts[0] = 2
    return counts


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (PLACES * 1e300, r"Positions of adata are as large as \S+e\+30\d\."),
        (with_first(1e308), r"Positions of adata are as large as 1e\+308\."),
        (with_first(-1e308), r"Positions of adata are as large as 1e\+308\."),
        (with_first(1e15), r"A spot of adata is \S+e\+13 times as far out as neighbours are apart"),
        (PLACES * 1e-300, r"Neighbouring spots of adata are 0 apart\."),
        (PLACES * 5e-324, r"(Neighbouring spots of adata are 0 apart|The 80 spots of adata are at)"),
        (
            np.repeat([[0.0, 0.0], [1.0, 0.0]], 40, axis=0),
            "The 80 spots of adata are at 2 different positions",
        ),
        (np.zeros((80, 2)), "All spots of adata are at one position"),
    ],
)
def test_positions_whose_distances_cannot_be_computed_are_refused(positions: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check.dataset(tissue(positions))


@pytest.mark.parametrize("factor", [1e-90, 1e-6, 1e6, 1e90])
def test_every_sensible_unit_will_do(factor: float) -> None:
    shifted = (PLACES + 1e6) * factor
    np.testing.assert_array_equal(check.dataset(tissue(shifted)).positions, shifted)


@pytest.mark.parametrize(
    "counts",
    [np.full((80, 30), 3e38, np.float32), np.full((80, 30), 2**64 - 1, np.uint64), np.full((80, 30), 2**40)],
    ids=["float32", "uint64", "int64"],
)
@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix])
def test_counts_that_32_bit_sums_cannot_hold_are_refused(counts: np.ndarray, stored: Callable) -> None:
    with pytest.raises(InputError, match=r"adata\.X holds .* Counts are at most 2147483648;"):
        check.counts(tissue(counts=stored(counts)))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds_that_generators_cannot_take_are_refused(seed: int, run: Any, tissue_file: Path) -> None:
    with pytest.raises(InputError, match=rf"seed={seed} was given\. It must be between 0 and 4294967295\."):
        Settings(seed=seed)
    with pytest.raises(InputError, match=rf"seed={seed} was given\."):
        files.place(run.out, tissue_file, "nowhere.h5ad", seed=seed)
    assert Settings(seed=2**32 - 1).seed == 2**32 - 1


def test_dense_float16_counts_are_fitted_as_float32(fit: Callable[..., Any], tmp_path: Path) -> None:
    counts = tissue().X.toarray()
    runs = []
    for dtype in (np.float16, np.float32):
        file = tmp_path / f"{np.dtype(dtype)}.h5ad"
        tissue(counts=counts.astype(dtype)).write_h5ad(file)
        runs.append(fit(file, tmp_path / f"run_{np.dtype(dtype)}", max_epochs=1))
    assert "Counts of type float16 are converted to float32, sparse." in runs[0].run.provenance.notes
    np.testing.assert_allclose(*(one.run.adata.obsm["X_isovi"] for one in runs), rtol=1e-4, atol=1e-5)
    assert runs[0].run.adata.X.dtype == np.float32
    np.testing.assert_array_equal(runs[0].run.adata.X.toarray(), counts)
    placed = files.place(runs[0].out, tmp_path / "float16.h5ad", tmp_path / "placed.h5ad")
    assert placed["n_cells"] == 80


@pytest.mark.parametrize(
    ("data", "unmeasured"),
    [
        (lambda: tissue(np.round(PLACES / 600) * 600), "distortion constant L(0.1)"),
        (lambda: tissue(counts=all_but_one_alike()), "Spearman correlation of distances"),
    ],
    ids=["rounded positions", "all spots but one alike"],
)
def test_what_cannot_be_measured_is_said(
    data: Callable[[], AnnData], unmeasured: str, fit: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "tissue.h5ad"
    data().write_h5ad(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = fit(file, tmp_path / "run")
        read = Run.read(fitted.out)
        words = report(fitted.out).words()
        sentences = certified(diagnose(fitted.out))
    said = "\n".join([*fitted.said, *words, *sentences])
    assert re.search(r"\b(None|inf|nan)\b", said) is None
    [note] = [note for note in fitted.json("run.json")["provenance"]["notes"] if note.startswith(UNMEASURED)]
    assert unmeasured in note and "The 20 held-out spots are at " in note
    assert words[0].startswith("Held-out spots could not be measured: ")
    assert words[2].startswith("Nothing is certified: ") and fitted.metrics["certificate"] == {}
    assert all(one.startswith("Nothing is certified for ") for one in sentences)
    measured = {name: v if np.isfinite(v) else np.nan for name, v in fitted.metrics["heldout"].items()}
    np.testing.assert_equal(read.metrics["heldout"], measured)


@pytest.mark.parametrize(
    ("counts", "backbone", "said"),
    [
        (np.ones((80, 30)), "scvi", "All 54 training spots have the same counts of the 30 genes chosen"),
        (np.tile(np.arange(1, 31), (80, 1)), "scvi", "the same counts of the 30 genes chosen"),
        (np.outer(np.arange(1, 81), np.ones(30)), "vae", "the same shares of counts of the 30 genes chosen"),
    ],
    ids=["all counts 1", "equal spots", "equal shares"],
)
@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_spots_that_are_all_alike_are_refused_before_training(
    counts: np.ndarray, backbone: str, said: str, stored: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))
    data = tissue(counts=stored(counts.astype(np.float32)))
    with pytest.raises(InputError, match=said):
        isovi.fit(data, holdout=0.25, backbone=backbone, n_top_genes=0, progress=False)


def test_ellipses_that_positions_on_a_line_lack_are_noted() -> None:
    with pytest.warns(IsoviWarning, match=re.escape(UNMEASURED)):
        run = isovi.fit(tissue(PLACES * [1, 0]), holdout=0.25, max_epochs=1, n_latent=3, progress=False)
    note = run.provenance.notes[-1]
    assert note.startswith(f"{UNMEASURED}anisotropy, median (train, heldout, all). The 20 held-out spots")
    lacking = {
        name for part in ("train", "all") for name, v in run.metrics[part].items() if not np.isfinite(v)
    }
    assert lacking == {"anisotropy"}
