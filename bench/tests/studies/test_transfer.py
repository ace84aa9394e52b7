from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from isovi.errors import InputError
from isovi.simulate import simulate
from isovi_bench.rows import Rows
from isovi_bench.studies import transfer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three sections of one tissue, the third with one gene less and in a frame of its own."""
    adata = simulate("layers", n_obs=360, n_genes=80, seed=0, depth=3.0)
    for number, name in enumerate("abc"):
        part = adata[number::3].copy()
        part.obsm["spatial"] = np.asarray(part.obsm["spatial"], dtype=float) + 1000 * number
        (part[:, 1:] if name == "c" else part).write_h5ad(tmp_path / f"{name}.h5ad")
    return tmp_path


def test_the_reference_is_joined_in_the_frame_of_its_first_section(data: Path) -> None:
    given = transfer.read(data, ["a", "b"], "c", seed=0)
    lost = set(anndata.read_h5ad(data / "a.h5ad").var_names) - set(given.query.var_names)
    assert (given.reference.n_obs, given.query.n_obs) == (240, 120)
    assert len(lost) == 1 and not lost & set(given.reference.var_names)
    centres = (
        pd.DataFrame(given.reference.obsm["spatial"]).groupby(given.reference.obs["section"].array).mean()
    )
    assert np.allclose(centres.loc["a"], centres.loc["b"])
    assert given.known.sum() == transfer.KNOWN and 0.05 < given.validation.mean() < 0.15
    again = transfer.read(data, ["a", "b"], "c", seed=0)
    assert (again.known == given.known).all() and (again.validation == given.validation).all()


def test_errors_after_alignment_ignore_where_the_frame_is(data: Path) -> None:
    given = transfer.read(data, ["a"], "c", seed=0)
    truth = np.asarray(given.query.obsm["spatial"], dtype=float)
    turned = truth @ np.array([[0.0, -1.0], [1.0, 0.0]]) - 500
    found = transfer.errors(given, turned, None)
    assert found["median_error"] > 10
    assert found["framed_median_error"] == pytest.approx(0, abs=1e-6)
    assert found["aligned_median_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_every_way_places_the_query_and_no_transfer_is_repeated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "EPOCHS", 2)
    out = tmp_path / "rows.jsonl"
    rows = transfer.measure(["a+b:c"], data, out, max_epochs=10)
    methods = rows.set_index("method")
    assert {"isovi, zero-shot", "isovi, fine-tuned", "plain, zero-shot", "10-NN, scVI"} <= set(methods.index)
    assert methods["coverage"].notna().sum() == 4 and np.isfinite(methods["median_error"]).all()
    monkeypatch.setattr(transfer, "run", lambda *_: pytest.fail("run again"))
    assert len(transfer.measure(["a+b:c"], data, out)) == len(rows)
    assert transfer.report(rows).count("\n") == 1 + len(rows)


def test_a_pair_names_reference_and_query(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pairs=a\+b\. A pair is REFERENCE:QUERY"):
        transfer.measure(["a+b"], tmp_path, tmp_path / "rows.jsonl")


def test_the_report_is_over_seeds(tmp_path: Path) -> None:
    row = dict.fromkeys(transfer.SHOWN, 1.0) | {"reference": "a", "query": "b", "method": "m"}
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add([row | {"seed": 0}, row | {"seed": 1, "shift": 2.0}])
    assert transfer.report(rows.frame()).splitlines()[-1].endswith("| 1.0 (0.0) | 1.5 (0.707) | 2 |")
