from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.neighbors import kneighbors_graph

import isovi.simulate
from isovi.errors import InputError
from isovi.simulate import KINDS, _check_whole, _draw_counts, _Genes, simulate


@pytest.fixture(scope="module", params=KINDS)
def tissue(request: pytest.FixtureRequest) -> AnnData:
    return simulate(request.param, n_obs=1500, n_genes=300, seed=3)


@pytest.fixture(scope="module")
def three() -> AnnData:
    return simulate("layers", n_obs=1001, n_genes=120, n_sections=3, seed=5)


def morans_i(adata: AnnData) -> np.ndarray:
    normalised = adata.copy()
    sc.pp.normalize_total(normalised)
    sc.pp.log1p(normalised)
    return sc.metrics.morans_i(kneighbors_graph(adata.obsm["spatial"], 6), normalised.X.T.toarray())


def true_means(adata: AnnData) -> np.ndarray:
    """The documented formula, from what is stored."""
    log_means = adata.var["true_base"].to_numpy() + adata.obsm["X_truth"] @ adata.varm["true_loadings"].T
    return adata.obs["true_size"].to_numpy()[:, None] * np.exp(log_means)


# ------------------------------------------------------------------- what is there


def test_counts_are_raw_and_nothing_is_empty(tissue: AnnData) -> None:
    assert tissue.shape == (1500, 300)
    assert isinstance(tissue.X, sparse.csr_matrix)
    assert tissue.X.dtype == np.float32
    assert tissue.X.has_canonical_format
    assert (tissue.X.data >= 1).all()
    assert (tissue.X.data == np.rint(tissue.X.data)).all()
    assert (tissue.X.sum(axis=1) > 0).all()
    assert (tissue.X.sum(axis=0) > 0).all()
    assert tissue.obs_names.is_unique
    assert tissue.var_names.is_unique


def test_sparsity_and_depth_are_those_of_spatial_data(tissue: AnnData) -> None:
    assert 0.7 < 1 - tissue.X.nnz / np.prod(tissue.shape) < 0.9
    assert 150 < np.median(np.asarray(tissue.X.sum(axis=1))) < 500


def test_few_counts_leave_no_spot_and_no_gene_empty() -> None:
    poor = simulate("ring", n_obs=200, n_genes=30, seed=0, depth=0.01)
    assert poor.X.sum() < 400, "nearly everything had to be filled in"
    assert (poor.X.sum(axis=1) > 0).all()
    assert (poor.X.sum(axis=0) > 0).all()
    assert poor.X.has_canonical_format


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_tissue(kind: str) -> None:
    small = simulate(kind, n_obs=10, n_genes=2, seed=0)
    assert small.shape == (10, 2)
    assert np.isfinite(small.obsm["spatial"]).all()
    assert np.isfinite(small.obsm["X_truth"]).all()


def test_what_was_asked_is_recorded_and_survives_a_file(three: AnnData, tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    three.write_h5ad(path)
    record = anndata.read_h5ad(path).uns["isovi_simulation"]
    assert (record["kind"], record["seed"], record["n_sections"], record["theta"]) == ("layers", 5, 3, 3.0)
    assert len(record["programmes"]) == three.obsm["X_truth"].shape[1]
    assert record["rotation"].shape == record["section_depth"].shape == (3,)


# ------------------------------------------------------------------- geometry


def test_spots_lie_on_a_hexagonal_grid_of_the_given_spacing(tissue: AnnData) -> None:
    places = tissue.obsm["spatial"]
    distances = cKDTree(places).query(places, k=7)[0][:, 1:]
    assert distances.min() >= 0.8 * 100.0 - 1e-6, "two jitters of a tenth"
    assert np.median(distances[:, 0]) == pytest.approx(100.0, rel=0.15)
    inner = (distances[:, 5] < 121.0).mean()
    assert inner > 0.8, "all but the rim have six neighbours one spacing away"


def test_without_jitter_the_grid_is_exact() -> None:
    places = simulate("blobs", n_obs=300, n_genes=5, spacing=40.0, jitter=0.0).obsm["spatial"]
    distances = cKDTree(places).query(places, k=2)[0][:, 1]
    np.testing.assert_allclose(distances, 40.0)


def test_outlines() -> None:
    spread = {kind: np.ptp(simulate(kind, 1500, 2).obsm["spatial"], axis=0) for kind in KINDS}
    assert spread["layers"][0] / spread["layers"][1] == pytest.approx(1.4, rel=0.05)
    assert spread["blobs"][0] / spread["blobs"][1] == pytest.approx(1.0, rel=0.05)
    ring = simulate("ring", 1500, 2).obsm["spatial"]
    radius = np.hypot(*(ring - ring.mean(axis=0)).T)
    assert radius.min() / radius.max() == pytest.approx(0.45, abs=0.05)


def test_sections_share_the_tissue_but_not_the_slide(three: AnnData) -> None:
    assert three.obs["section"].value_counts().to_dict() == {
        "section_0": 334,
        "section_1": 334,
        "section_2": 333,
    }
    record = three.uns["isovi_simulation"]
    assert record["rotation"][0] == 0
    assert len(set(record["rotation"])) == len(set(record["section_depth"])) == 3
    first, second = (three[three.obs["section"] == f"section_{i}"] for i in (0, 1))
    assert not np.isin(first.obsm["spatial"], second.obsm["spatial"]).any()
    assert set(first.obs["domain"]) == set(second.obs["domain"])


def test_turned_back_the_sections_show_one_tissue(three: AnnData) -> None:
    record, unturned = three.uns["isovi_simulation"], []
    for i, (angle, offset) in enumerate(zip(record["rotation"], record["offset"], strict=True)):
        places = three.obsm["spatial"][three.obs["section"] == f"section_{i}"] - offset
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        unturned.append(places @ turn)
    truth = three.obsm["X_truth"][:, list(record["programmes"]).index("y")]
    heights = np.concatenate(unturned)[:, 1]
    assert np.corrcoef(heights, truth)[0, 1] > 0.999


def test_the_gradients_are_positions(tissue: AnnData) -> None:
    record = tissue.uns["isovi_simulation"]
    x, y = tissue.obsm["spatial"].T
    names = list(record["programmes"])
    expected = {
        "x": x,
        "y": y,
        "cosine": x / np.hypot(x, y),
        "sine": y / np.hypot(x, y),
        "radius": np.hypot(x, y),
    }
    found = [name for name in names if name in expected]
    assert found == (["cosine", "sine", "radius"] if record["kind"] == "ring" else ["x", "y"])
    for name in found:
        truth = tissue.obsm["X_truth"][:, names.index(name)]
        assert np.corrcoef(truth, expected[name])[0, 1] > 0.999


# ------------------------------------------------------------------- expression


def test_domains_are_the_largest_memberships_and_hang_together(tissue: AnnData) -> None:
    memberships = tissue.obsm["X_truth"][:, :6]
    np.testing.assert_allclose(memberships.sum(axis=1), 1.0)
    np.testing.assert_array_equal(tissue.obs["domain"], [f"domain_{d}" for d in memberships.argmax(axis=1)])
    assert tissue.obs["domain"].nunique() >= 5
    codes = tissue.obs["domain"].cat.codes.to_numpy()
    neighbours = cKDTree(tissue.obsm["spatial"]).query(tissue.obsm["spatial"], k=7)[1][:, 1:]
    assert (codes[neighbours] == codes[:, None]).mean() > 0.75


def test_each_role_has_the_spatial_pattern_that_it_claims(tissue: AnnData) -> None:
    found = morans_i(tissue)
    by_role = {role: found[tissue.var["role"] == role] for role in tissue.var["role"].cat.categories}
    # under no pattern the standard deviation of I on 1500 spots with six neighbours is about 0.015
    for role in ("noise", "state"):
        assert abs(by_role[role].mean()) < 0.01
        assert np.abs(by_role[role]).max() < 0.09
    for role in ("domain", "gradient"):
        assert by_role[role].max() > 0.25
        assert (by_role[role] > 0.05).mean() > 0.4
    shuffled = tissue.copy()
    shuffled.obsm["spatial"] = np.random.default_rng(0).permutation(tissue.obsm["spatial"])
    assert np.abs(morans_i(shuffled)).max() < 0.09


def test_counts_follow_the_stored_truth(tissue: AnnData) -> None:
    means = true_means(tissue)
    totals = np.asarray(tissue.X.sum(axis=0)).ravel()
    deviation = np.sqrt((means + means**2 / 3.0).sum(axis=0))
    scores = (totals - means.sum(axis=0)) / deviation
    assert np.abs(scores).max() < 5
    assert scores.std() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("theta", [1.0, 3.0, 10.0])
def test_the_dispersion_is_found_again_by_moments(theta: float) -> None:
    adata = simulate("layers", 2000, 100, seed=1, theta=theta)
    noise = (adata.var["role"] == "noise").to_numpy()
    means, counts = true_means(adata)[:, noise], adata.X[:, noise].toarray()
    found = (means**2).sum() / ((counts - means) ** 2 - means).sum()
    assert found == pytest.approx(theta, rel=0.2)


def test_the_share_of_zeros_is_negative_binomial(tissue: AnnData) -> None:
    expected = (1 + true_means(tissue) / 3.0) ** -3.0
    zeros = tissue.X.shape[0] - tissue.X.getnnz(axis=0)
    deviation = np.sqrt((expected * (1 - expected)).sum(axis=0))
    scores = (zeros - expected.sum(axis=0)) / deviation
    assert np.abs(scores).max() < 5


def test_depth_scales_the_counts() -> None:
    shallow, deep = (simulate("layers", 400, 60, seed=2, depth=depth) for depth in (1.0, 4.0))
    assert deep.X.sum() / shallow.X.sum() == pytest.approx(4.0, rel=0.1)
    np.testing.assert_array_equal(shallow.obsm["X_truth"], deep.obsm["X_truth"])


# ------------------------------------------------------------------- determinism and cost

PRINT_DIGEST = """
import hashlib, sys, types
package = types.ModuleType("isovi")  # without running the package's own __init__: it imports all models
package.__path__ = [sys.argv[1]]
sys.modules["isovi"] = package
from isovi.simulate import simulate
a = simulate("blobs", 200, 40, 2, seed=7)
parts = a.X.toarray(), a.obsm["spatial"], a.obsm["X_truth"]
print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


def test_the_same_seed_gives_the_same_bits_in_another_process() -> None:
    a = simulate("blobs", 200, 40, 2, seed=7)
    parts = a.X.toarray(), a.obsm["spatial"], a.obsm["X_truth"]
    package = str(Path(isovi.simulate.__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST, package], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_another_seed_gives_another_tissue() -> None:
    first, second = (simulate("layers", 100, 20, seed=seed) for seed in (0, 1))
    assert (first.X != second.X).nnz > 0
    assert not np.array_equal(first.obsm["spatial"], second.obsm["spatial"])


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002  # it is what must not change
    simulate("ring", 50, 5, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_the_counts_are_never_dense() -> None:
    n_obs, n_genes = 4000, 500
    activity, sizes = np.zeros((n_obs, 1)), np.ones(n_obs)
    genes = _Genes(["noise"] * n_genes, np.full(n_genes, np.log(0.02)), np.zeros((n_genes, 1)))
    tracemalloc.start()
    counts = _draw_counts(activity, genes, sizes, 3.0, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.shape == (n_obs, n_genes)
    assert peak < n_obs * n_genes * 4, "less than the dense matrix in float32"


# ------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "spiral"}, ['kind is "spiral"', "layers, blobs, ring", "Use one"]),
        ({"n_obs": 9}, ["n_obs is 9", "at least 10", "another value of n_obs"]),
        ({"n_obs": 29, "n_sections": 3}, ["n_obs is 29", "at least 30 (10 for each section)"]),
        ({"n_genes": 1}, ["n_genes is 1", "at least 2"]),
        ({"n_sections": 0}, ["n_sections is 0", "at least 1"]),
        ({"n_domains": 1}, ["n_domains is 1", "at least 2"]),
        ({"seed": -1}, ["seed is -1", "at least 0"]),
        ({"spacing": 0.0}, ["spacing is 0.0", "positive"]),
        ({"jitter": 0.5}, ["jitter is 0.5", "below 0.5"]),
        ({"jitter": -0.1}, ["jitter is -0.1", "at least 0"]),
        ({"depth": float("nan")}, ["depth is nan", "finite"]),
        ({"theta": float("inf")}, ["theta is inf", "finite"]),
    ],
)
def test_bad_arguments_are_named(arguments: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        simulate(**{"kind": "layers", "n_obs": 50, "n_genes": 10, **arguments})
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


def test_half_a_spot_is_refused() -> None:
    with pytest.raises(InputError, match=r"n_obs is 10\.5\. It must be an integer"):
        _check_whole("n_obs", 10.5, 10)
