"""What the report says of domains: markers, composition, agreement beside a baseline; and its genes."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from isovi import tl
from isovi.report import domains, render
from isovi.report.record import Genes
from isovi.report.summarise import Report
from isovi.run import Run


def test_markers_are_the_genes_of_their_domain() -> None:
    rng = np.random.default_rng(0)
    column = pd.Series(pd.Categorical(np.repeat(["a", "b", "c"], 40)))
    values = rng.poisson(0.3, size=(120, 20)).astype(np.float32)
    for code, gene in enumerate((3, 7, 11)):
        values[40 * code : 40 * (code + 1), gene] += 3
    matrix = sparse.csc_matrix(np.log1p(values))
    found, dots = domains._markers(column, matrix, [f"g{number}" for number in range(20)])
    best = {one.domain: one for one in reversed(found)}
    assert {name: one.gene for name, one in best.items()} == {"a": "g3", "b": "g7", "c": "g11"}
    assert best["a"].inside == 1.0 and best["a"].outside == pytest.approx((values[40:, 3] > 0).mean())
    assert best["a"].change > 1 and all(one.score > 0 for one in found)
    assert dots is not None and len(set(dots.genes)) == len(dots.genes)
    column_of = dots.genes.index("g7")
    assert dots.mean[1][column_of] == 1.0 and dots.share[1][column_of] == 1.0


@pytest.mark.parametrize("names", [["a"] * 10, ["a"] * 8 + ["b"] * 2])
def test_a_domain_alone_has_no_markers(names: list[str]) -> None:
    matrix = sparse.csc_matrix(np.ones((10, 3), dtype=np.float32))
    assert domains._markers(pd.Series(pd.Categorical(names)), matrix, ["x", "y", "z"]) == ([], None)


def test_compositions_count_every_spot(written: Report, folder: Path) -> None:
    adata = Run.read(folder).adata
    found = {one.what: one for one in written.summary.domains.composition}
    assert set(found) == {"section", "label"}
    for one in found.values():
        assert np.sum(one.counts) == adata.n_obs
    table = pd.crosstab(adata.obs["section"], adata.obs["isovi_domain"])
    assert found["section"].counts == table.to_numpy().tolist()
    unlabelled = found["label"].names.index("missing")
    assert sum(found["label"].counts[unlabelled]) == (adata.obs["domain"] == "undetermined").sum()


def test_agreement_stands_beside_that_of_coordinates_alone(written: Report, folder: Path) -> None:
    run = Run.read(folder)
    ours, alone = written.summary.domains.agreement
    known = tl.is_labelled(run.adata.obs["domain"])
    expected = adjusted_rand_score(run.adata.obs["domain"][known], run.adata.obs["isovi_domain"][known])
    assert ours.ari == pytest.approx(expected) == run.metrics["ari"]
    assert alone.name == "k-means on the coordinates alone" and -0.1 < alone.ari < 1


def test_candidates_have_stability_where_it_was_measured() -> None:
    stored = {"candidates": np.array([2, 3, 4]), "bic": np.array([30.0, 10.0, 9.0]), "n_domains": 3}
    found = domains._options(stored)
    assert [one.number for one in found if one.chosen] == [3]
    assert [one.stability for one in found] == [None] * 3
    found = domains._options({**stored, "stability": np.array([1.0, 0.9, np.nan])})
    assert [one.stability for one in found] == [1.0, 0.9, None]
    assert domains._options({"n_domains": 3}) == []


# ---------------------------------------------------------------------------- the store of genes


def genes_of(n_spots: int, n_genes: int, density: float) -> Genes:
    rng = np.random.default_rng(0)
    matrix = sparse.random(n_spots, n_genes, density, "csc", rng=rng, dtype=np.float32)
    matrix.data = np.log1p(rng.poisson(2, size=matrix.nnz) + 1).astype(np.float32)
    return Genes([f"gene{number}" for number in range(n_genes)], matrix)


def test_the_store_holds_every_gene_of_every_spot() -> None:
    genes = genes_of(300, 250, 0.2)
    store = render.packed(genes, 10**6)
    assert store is not None and store["rows"] is None and store["names"] == genes.names
    levels = np.frombuffer(gzip.decompress(base64.b64decode(store["bytes"])), np.uint8).reshape(250, 300)
    values = levels.T * np.array(store["highest"]) / store["levels"]
    expected = genes.matrix.toarray()
    assert np.abs(values - expected).max() <= expected.max() / 63
    assert ((values > 0) == (expected > 0)).all()  # no count is rounded away


def test_where_it_is_too_large_some_spots_are_taken_and_said(written: Report) -> None:
    genes = genes_of(2_000, 200, 0.3)
    whole = render.packed(genes, 10**7)
    assert whole is not None and whole["rows"] is None
    budget = len(whole["bytes"]) // 2
    part = render.packed(genes, budget)
    assert part is not None and 100 <= len(part["rows"]) < 2_000
    assert len(part["bytes"]) + 8 * len(part["rows"]) <= budget
    assert render.packed(genes, 100) is None
    page = render.page(written.summary, written, charts={}, documents={}, store=part)
    assert f"on {len(part['rows']):,} of the spots" in page


@pytest.mark.slow
def test_a_page_of_2000_genes_of_5000_spots_is_below_8_megabytes(written: Report) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5_000, 2)).astype(np.float32)
    channel = replace(written.spots.channels[-1], values=rng.normal(size=5_000).astype(np.float32))
    spots = replace(
        written.spots,
        names=np.arange(5_000).astype(str),
        tissue=noise,
        latent=noise,
        channels=(channel,) * 45,
    )
    genes = genes_of(5_000, 2_000, 0.1)
    assert len(render.html(replace(written, spots=spots, genes=genes)).encode()) <= render.PAGE_BYTES
    store = render.packed(genes, 4_000_000)
    assert store is not None and store["rows"] is None
