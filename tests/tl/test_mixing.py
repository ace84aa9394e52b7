from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from isovi import InputError, tl

N = 600


def groups(n_groups: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, 5)), rng.integers(0, n_groups, N)


@pytest.mark.parametrize("n_groups", [2, 4])
def test_groups_that_are_drawn_alike_mix_and_those_far_apart_do_not(n_groups: int) -> None:
    latent, group = groups(n_groups)
    mixed, apart = tl.mixing_of(latent, group), tl.mixing_of(latent + 99.0 * group[:, None], group)
    assert mixed["ilisi"] > 0.7 and mixed["kbet"] > 0.9
    assert mixed["same_group"] == pytest.approx(mixed["same_group_mixed"], abs=0.03)
    assert apart["ilisi"] == pytest.approx(0, abs=1e-9) and apart["kbet"] == 0 and apart["same_group"] == 1


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_the_metrics_are_those_of_scib_metrics(shift: float) -> None:
    scib = pytest.importorskip("scib_metrics", reason="a dependency of the benchmark")
    neighbors = pytest.importorskip("scib_metrics.nearest_neighbors")
    latent, group = groups(3)
    latent[:, 0] += shift * group
    apart, near = NearestNeighbors(n_neighbors=91).fit(latent).kneighbors(latent)
    given = neighbors.NeighborsResults(near[:, 1:], apart[:, 1:])
    found = tl.mixing_of(latent, group)
    assert found["ilisi"] == pytest.approx(float(scib.ilisi_knn(given, group)), abs=1e-4)
    assert found["kbet"] == pytest.approx(float(scib.kbet(given, group)[0]), abs=1e-9)


def test_the_share_is_counted_by_hand() -> None:
    """On a line of two colours in turn, half of the 30 nearest have the own colour, up to the cell itself."""
    latent, group = np.arange(400.0)[:, None], np.arange(400) % 2
    found = tl.mixing_of(latent, group)
    order = np.argsort(np.abs(latent - latent.T), axis=1, kind="stable")[:, 1:31]
    assert found["same_group"] == pytest.approx((group[order] == group[:, None]).mean(), abs=0.02)
    assert found["same_group_mixed"] == 0.5


def test_doubles_do_not_displace_the_cell() -> None:
    latent, group = groups()
    latent[:200] = 0.0
    assert np.isfinite(list(tl.mixing_of(latent, group).values())).all()


def test_names_and_scale_of_groups_do_not_matter() -> None:
    latent, group = groups(3)
    named = np.array(["b", "c", "a"])[group]
    assert tl.mixing_of(latent, named) == pytest.approx(tl.mixing_of(7.0 * latent, group))


def test_the_identity_part_is_measured_where_there_is_one() -> None:
    latent, group = groups()
    adata = AnnData(obsm={"X_isovi": latent + 99.0 * group[:, None], "X_isovi_identity": latent})
    adata.obs["patient"] = np.array(["p", "q"])[group]
    assert tl.mixing(adata, "patient")["ilisi"] > 0.8
    assert tl.mixing(adata, "patient", use_rep="X_isovi")["ilisi"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n_cells", "n_groups"), [(90, 2), (200, 1)])
def test_too_few_cells_or_one_group_are_refused(n_cells: int, n_groups: int) -> None:
    latent, group = np.random.default_rng(0).normal(size=(n_cells, 2)), np.arange(n_cells) % n_groups
    with pytest.raises(InputError, match="two groups or more"):
        tl.mixing_of(latent, group)
