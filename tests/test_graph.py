from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial import Delaunay as Triangulation
from scipy.spatial.distance import cdist

from bound import Tissue
from isovi import InputError, IsoviWarning
from isovi.graph import (
    AllPairs,
    Delaunay,
    Gaussian,
    Neighbors,
    Obsp,
    PairKind,
    Radius,
    SameDomain,
    Stored,
    Union,
    parse_pairs,
    require_pairs,
)
from isovi.spots import Spots

KINDS: dict[str, PairKind] = {
    "all": AllPairs(),
    "knn:3": Neighbors(3),
    "radius:2.5": Radius(2.5),
    "delaunay": Delaunay(),
    "gaussian:1.5": Gaussian(1.5),
    "domain:region": SameDomain("region"),
    "obsp:links": Obsp("links"),
    "knn:3+obsp:links": Neighbors(3) | Obsp("links"),
    "domain:region+gaussian:1.5": SameDomain("region") | Gaussian(1.5),
    "delaunay+knn:3+obsp:links": Delaunay() | Neighbors(3) | Obsp("links"),
}
SPARSE = ["knn:3", "radius:2.5", "delaunay", "gaussian:1.5", "obsp:links"]
LOCAL = {*SPARSE, "knn:3+obsp:links", "domain:region+gaussian:1.5", "delaunay+knn:3+obsp:links"}


def tissue_of(n_axes: int = 2, n_per_section: int = 14, seed: int = 0) -> Tissue:
    """Two sections on top of each other, their spots interleaved, with a directed obsp matrix across them."""
    rng = np.random.default_rng(seed)
    n = 2 * n_per_section
    links = sp.random(n, n, 0.1, random_state=rng, format="lil", dtype=np.float64)
    links[0, 0] = 7.0
    return Tissue(
        Spots(rng.uniform(0, 6, (n, n_axes)).astype(np.float32), np.tile([0, 1], n_per_section)),
        {"region": rng.integers(0, 3, n)},
        {"links": links.tocsr()},
    )


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def tissue(request: pytest.FixtureRequest) -> Tissue:
    return tissue_of(request.param)


def every_pair(tissue: Tissue) -> tuple[torch.Tensor, torch.Tensor]:
    n = len(tissue.section)
    return tuple(torch.cartesian_prod(torch.arange(n), torch.arange(n)).T)


def dense(kind: PairKind, tissue: Tissue) -> np.ndarray:
    """Weights of every ordered pair; what is on the diagonal is nobody's business."""
    found = kind.fit(*tissue)(*every_pair(tissue)).numpy().reshape(2 * (len(tissue.section),)).copy()
    np.fill_diagonal(found, 0)
    return found


def by_section(tissue: Tissue) -> list[np.ndarray]:
    return [np.flatnonzero(tissue.section == code) for code in np.unique(tissue.section)]


# ------------------------------------------------------------------ every kind


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_symmetric_non_negative_and_within_sections(name: str, tissue: Tissue) -> None:
    weights = dense(KINDS[name], tissue)
    assert weights.max() > 0
    assert weights.min() >= 0
    assert np.array_equal(weights, weights.T)
    assert not weights[tissue.section[:, None] != tissue.section].any()


@pytest.mark.parametrize("name", KINDS)
def test_drawn_pairs_add_up_to_the_sum_over_all_pairs(name: str, tissue: Tissue) -> None:
    """Horvitz and Thompson: the mean over draws is the full sum, and few enough pairs give it exactly."""
    values = torch.as_tensor(np.random.default_rng(1).uniform(1, 2, (len(tissue.section),) * 2))
    values = values + values.T
    fitted = KINDS[name].fit(*tissue)
    total = float((torch.as_tensor(dense(KINDS[name], tissue)) * values).sum()) / 2
    rng = np.random.default_rng(2)

    def estimate(n_pairs: int) -> float:
        source, target, weight = fitted.draw(n_pairs, rng)
        assert (source != target).all()
        return float((weight * values[source, target]).sum())

    draws = np.array([estimate(5) for _ in range(400)])
    error = draws.std() / np.sqrt(len(draws))
    assert error < 0.1 * total
    assert abs(draws.mean() - total) < 4 * error + 1e-4
    assert estimate(10_000) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_draws_belong_to_the_caller_and_are_about_as_many_as_asked(name: str, tissue: Tissue) -> None:
    fitted = KINDS[name].fit(*tissue)
    first, again = (fitted.draw(6, np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert 6 <= len(first[0]) <= 6 * (1 + name.count("+"))


@pytest.mark.parametrize("name", KINDS)
def test_weights_in_a_minibatch_are_those_of_its_spots(name: str, tissue: Tissue) -> None:
    weights = KINDS[name].fit(*tissue)
    cells = torch.tensor([9, 2, 5, 7, 3, 4, 6])
    source, target = torch.triu_indices(len(cells), len(cells), 1)
    section = torch.as_tensor(tissue.section)[cells]
    source, target = (end[section[source] == section[target]] for end in (source, target))
    assert torch.equal(weights.among(cells, source, target), weights(cells[source], cells[target]))
    assert not len(weights.among(cells[:0], source[:0], target[:0]))


def test_stored_weights_are_looked_up_alike_on_an_accelerator(tissue: Tissue) -> None:
    pairs = every_pair(tissue)
    for kind in (Neighbors(4), Gaussian(1.5)):
        weights = kind.fit(*tissue)
        assert weights(*pairs).any()
        assert torch.equal(weights._looked_up(*pairs), weights(*pairs))
    nothing = Neighbors(4).fit(Spots(np.full((9, 2), np.nan)))
    assert not nothing._looked_up(torch.arange(8), torch.arange(1, 9)).any()


@pytest.mark.parametrize("name", KINDS)
def test_no_pairs_asked_for_no_weights(name: str, tissue: Tissue) -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert KINDS[name].fit(*tissue)(none, none).shape == (0,)


@pytest.mark.parametrize("name", KINDS)
def test_text_is_read_as_the_kind(name: str) -> None:
    assert parse_pairs(name) == KINDS[name] and str(KINDS[name]) == name
    assert parse_pairs(f" {name} ".replace("+", " + ")) == KINDS[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_says_what_it_reads_and_whether_it_is_local(name: str) -> None:
    kind = KINDS[name]
    assert kind.local == (name in LOCAL)
    assert kind.obs_keys == (("region",) if "region" in name else ())
    assert kind.obsp_keys == (("links",) if "links" in name else ())


@pytest.mark.parametrize("name", [name for name in KINDS if "domain" not in name and name != "all"])
def test_a_tissue_without_positions_has_no_pairs_but_obsp_ones(name: str, tissue: Tissue) -> None:
    unplaced = Tissue(tissue.spots.without_positions(tissue.spots.placed), tissue.columns, tissue.matrices)
    expected = dense(Obsp("links"), tissue) if "links" in name else np.zeros((28, 28))
    assert np.array_equal(dense(KINDS[name], unplaced), expected)


# ------------------------------------------------------------------ stored kinds


@pytest.mark.parametrize("name", SPARSE)
def test_pairs_are_stored_sparse_with_small_indices(name: str, tissue: Tissue) -> None:
    stored = KINDS[name].fit(*tissue)
    assert isinstance(stored, Stored)
    matrix = stored.matrix
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == np.float32
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert matrix.diagonal().max() == 0
    assert matrix.data.min() > 0
    assert np.array_equal(matrix.toarray(), dense(KINDS[name], tissue))


@pytest.mark.parametrize(("name", "per_spot"), [("knn:3", 6), ("delaunay", 6), ("radius:2.5", 32)])
def test_memory_grows_with_spots_not_with_their_square(name: str, per_spot: int) -> None:
    axis = np.arange(60, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    grid += np.random.default_rng(0).uniform(-0.1, 0.1, grid.shape).astype(np.float32)
    stored = KINDS[name].fit(Spots(grid))
    assert 2 * len(grid) < stored.matrix.nnz <= per_spot * len(grid)


def test_neighbors_against_brute_force(tissue: Tissue) -> None:
    expected = np.zeros((28, 28))
    for members in by_section(tissue):
        order = np.argsort(cdist(*[tissue.coordinates[members]] * 2), axis=1)
        for spot, near in zip(members, members[order[:, 1:4]], strict=True):
            expected[spot, near] = expected[near, spot] = 1
    assert np.array_equal(dense(Neighbors(3), tissue), expected)


def test_neighbors_of_small_sections_are_all_the_others(tissue: Tissue) -> None:
    assert np.array_equal(dense(Neighbors(100), tissue), dense(AllPairs(), tissue))
    lone = Spots(np.zeros((1, 2), dtype=np.float32))
    assert Neighbors(3).fit(lone).matrix.nnz == 0


def test_neighbors_where_spots_share_a_place() -> None:
    places = np.array([[0, 0], [0, 0], [0, 0], [5, 0], [6, 0]], dtype=np.float32)
    weights = dense(Neighbors(2), Tissue(Spots(places)))
    assert weights[:3, :3].sum() == 6
    assert weights[3, 4] == 1


@pytest.mark.parametrize("radius", [0.5, 2.5, 50.0])
def test_radius_against_brute_force(radius: float, tissue: Tissue) -> None:
    near = (cdist(*[tissue.coordinates] * 2) <= radius) * dense(AllPairs(), tissue)
    assert np.array_equal(dense(Radius(radius), tissue), near)


def test_gaussian_against_the_formula(tissue: Tissue) -> None:
    distance = cdist(*[tissue.coordinates] * 2)
    kernel = np.exp(-(distance**2) / (2 * 1.5**2)) * (distance <= 4.5) * dense(AllPairs(), tissue)
    np.testing.assert_allclose(dense(Gaussian(1.5), tissue), kernel, rtol=1e-5)


def test_delaunay_against_the_triangulation(tissue: Tissue) -> None:
    expected = np.zeros((28, 28))
    for members in by_section(tissue):
        for simplex in Triangulation(tissue.coordinates[members]).simplices:
            corners = members[simplex]
            expected[np.ix_(corners, corners)] = 1
    np.fill_diagonal(expected, 0)
    assert np.array_equal(dense(Delaunay(), tissue), expected)


def test_delaunay_of_spots_on_a_line_is_refused_with_a_remedy() -> None:
    line = np.stack([np.arange(5.0), np.zeros(5)], axis=1).astype(np.float32)
    with pytest.raises(InputError, match=r"5 spots.*one line.*Neighbors"):
        Delaunay().fit(Spots(line))


def test_obsp_takes_the_larger_direction_and_drops_the_rest(tissue: Tissue) -> None:
    links = tissue.matrices["links"].toarray()
    expected = np.maximum(links, links.T) * dense(AllPairs(), tissue)
    np.testing.assert_allclose(dense(Obsp("links"), tissue), expected, rtol=1e-6)
    assert links[tissue.section[:, None] != tissue.section].any(), "the test has pairs to drop"
    assert tissue.matrices["links"][0, 0] == 7.0, "the caller's matrix is as it was"


def test_same_domain_means_one_section_and_one_category(tissue: Tissue) -> None:
    region = tissue.columns["region"]
    expected = (region[:, None] == region) * dense(AllPairs(), tissue)
    np.fill_diagonal(expected, 0)
    assert np.array_equal(dense(SameDomain("region"), tissue), expected)


@pytest.mark.parametrize("name", [name for name in KINDS if "+" in name])
def test_a_union_takes_the_larger_weight(name: str, tissue: Tissue) -> None:
    parts = [dense(parse_pairs(part), tissue) for part in name.split("+")]
    assert np.array_equal(dense(KINDS[name], tissue), np.maximum.reduce(parts))


def test_spots_without_position_are_left_out(tissue: Tissue) -> None:
    coordinates = tissue.coordinates.copy()
    coordinates[::5] = np.nan
    weights = dense(Neighbors(3), Tissue(Spots(coordinates, tissue.section)))
    assert not weights[::5].any()
    assert (weights[1::5].sum(axis=1) >= 3).all()


# ------------------------------------------------------------------ reading and refusing


@pytest.mark.parametrize(
    "text", ["", "all:3", "knn:x", "knn:2.5", "radius", "domain", "obsp:", "delaunay:2", "knn:6+", "near:3"]
)
def test_text_that_names_no_kind_is_refused_with_the_kinds(text: str) -> None:
    with pytest.raises(InputError, match="The kinds are all, knn, radius, delaunay, gaussian, domain, obsp"):
        parse_pairs(text)


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("knn:0", r"Neighbors\(k=0\)"),
        ("radius:-1", r"Radius\(-1.0\)"),
        ("radius:nan", r"Radius\(nan\)"),
        ("radius:inf", r"Radius\(inf\)"),
        ("gaussian:0", r"bandwidth=0.0"),
        ("gaussian:inf", r"bandwidth=inf"),
    ],
)
def test_values_out_of_range_are_refused_with_the_value(text: str, received: str) -> None:
    with pytest.raises(InputError, match=received):
        parse_pairs(text)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_obsp_weights_that_are_no_weights_are_refused(value: float, tissue: Tissue) -> None:
    links = tissue.matrices["links"].tolil()
    links[2, 4] = value
    spoiled = Tissue(tissue.spots, {}, {"links": links.tocsr()})
    with pytest.raises(InputError, match=f"links.*{value:g}"):
        Obsp("links").fit(*spoiled)


def test_kinds_have_defaults_and_join_from_the_left() -> None:
    assert parse_pairs("knn") == Neighbors() == Neighbors(6)
    assert parse_pairs("gaussian") == Gaussian(2.0)
    assert parse_pairs("all+knn+delaunay") == Union(Union(AllPairs(), Neighbors()), Delaunay())


def test_fitting_is_silent(tissue: Tissue) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS.values():
            kind.fit(*tissue)(*every_pair(tissue))


# ------------------------------------------------------------------ whether there are any


@pytest.mark.parametrize("name", [name for name in KINDS if "+" not in name])
def test_pairs_are_counted_by_section_among_some_spots_with_a_position(name: str, tissue: Tissue) -> None:
    coordinates = tissue.coordinates.copy()
    coordinates[3] = np.nan
    spots = Spots(coordinates, tissue.section)
    weights = KINDS[name].fit(spots, tissue.columns, tissue.matrices)
    rows = np.setdiff1d(np.arange(len(spots)), [0, 5, 8])
    used = np.setdiff1d(rows, [3])
    source, target = used[np.stack(np.triu_indices(len(used), 1))]
    positive = weights(*map(torch.as_tensor, (source, target))).numpy() > 0
    within = positive & (tissue.section[source] == tissue.section[target])
    expected = np.bincount(tissue.section[source[within]], minlength=2)
    np.testing.assert_array_equal(weights.n_pairs(spots, rows), expected)


def lonely(spots: Spots) -> dict[str, Tissue]:
    """Matrices and columns that leave no pair."""
    n = len(spots)
    return {
        "empty": Tissue(spots, matrices={"key": sp.csr_matrix((n, n))}),
        "diagonal": Tissue(spots, matrices={"key": sp.eye(n, format="csr")}),
        "stored zeros": Tissue(spots, matrices={"key": sp.csr_matrix(sp.random(n, n, 0.5) * 0)}),
        "across sections": Tissue(
            spots, matrices={"key": sp.csr_matrix(spots.section[:, None] != spots.section).astype(float)}
        ),
        "unique": Tissue(spots, columns={"key": np.arange(n)}),
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Radius(1e-9), "empty"),
        (Gaussian(1e-9), "empty"),
        (SameDomain("key"), "unique"),
        *((Obsp("key"), name) for name in ("empty", "diagonal", "stored zeros", "across sections")),
        (AllPairs() | Radius(1e-9), "empty"),
    ],
)
def test_pairs_that_do_not_exist_are_refused(kind: PairKind, name: str) -> None:
    spots = tissue_of().spots
    weights = kind.fit(*lonely(spots)[name])
    with pytest.raises(InputError, match=r"pairs=\w+\(.*\) leaves no pair among 28 training spots\."):
        require_pairs(kind, weights, spots, np.arange(28))


def test_sections_without_pairs_are_named() -> None:
    spots = tissue_of().spots
    codes = np.where(spots.section == 1, np.arange(28), 100)
    weights = SameDomain("key").fit(spots, {"key": codes})
    with pytest.warns(IsoviWarning, match=r"no pair of training spots in 1 of 2 sections \(1\)"):
        require_pairs(SameDomain("key"), weights, spots, np.arange(28))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_pairs(SameDomain("key"), weights, spots, np.flatnonzero(spots.section == 0))
        require_pairs(Radius(1e-9), weights, spots.without_positions(np.arange(28)), np.arange(28))
