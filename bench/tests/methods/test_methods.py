from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

import isovi_bench.methods as adapters
from isovi import InputError
from isovi.spots import Spots
from isovi.tl.evaluate import evaluate_fit
from isovi_bench.task import Fitted, Task, find

METHODS = {
    "pca": (False, None),
    "vae": (False, "gaussian"),
    "scvi": (False, "counts"),
    "scvi-default": (False, "counts"),
    "isovae": (True, "gaussian"),
    "isoscvi": (True, "counts"),
    "isometry": (False, "gaussian"),
    "local-isometry": (False, "gaussian"),
}
EPOCHS = {"local-isometry": 4}  # it goes on from the plain model
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("isovae", {"penalty": 10.0, "relative": False, "normalization": "paper"}),
    ("isoscvi", {"target": 0.3, "pairs": "all+knn:4", "per_section": True, "gene_likelihood": "nb"}),
    ("isoscvi", {"penalty": 5.0, "scale": "learned", "distance": "sample"}),
    ("isometry", {"penalty": 5.0, "relative": False}),
    ("local-isometry", {"k": 4, "slack": 0.1}),
]


def contents(adata: AnnData) -> tuple[Any, ...]:
    """All that an adapter might change."""
    arrays = (adata.X.toarray().tobytes(), *(adata.obsm[key].tobytes() for key in sorted(adata.obsm)))
    keys = tuple(sorted([*adata.obsm, *adata.obsp, *adata.layers, *adata.uns], key=str))
    return arrays, keys, adata.obs.to_csv(), adata.var.to_csv()


def fitted(name: str, task: Task, **settings: Any) -> Fitted:
    return find(name).fit(task, **settings)


@pytest.mark.parametrize("name", METHODS)
def test_what_has_to_be_known_of_a_method_is_said(name: str) -> None:
    known = find(name)
    assert (known.sees_positions, known.decoder) == METHODS[name]
    assert known.encodes and not known.smooths and known.reference


def test_importing_the_package_makes_the_methods_known() -> None:
    assert adapters.__all__
    assert {find(name).fit.__module__.split(".")[-1] for name in METHODS} == set(adapters.__all__)


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in METHODS), *SETTINGS])
def test_every_spot_gets_the_same_finite_latent_from_the_same_seed(
    make_task: Callable[..., Task], name: str, settings: dict[str, Any]
) -> None:
    task = make_task()
    before = contents(task.seen), contents(task.spots)
    found = fitted(name, task, **settings)
    assert found.latent.shape == (120, 10)
    assert np.isfinite(found.latent).all()
    assert (found.model is None, found.epochs) == (
        (True, None) if name == "pca" else (False, EPOCHS.get(name, 2))
    )
    assert (contents(task.seen), contents(task.spots)) == before
    assert np.array_equal(fitted(name, make_task(), **settings).latent, found.latent)
    unseen = np.setdiff1d(np.arange(120), task.rows)
    assert len(np.unique(found.latent[unseen], axis=0)) == len(unseen), "each is encoded from its counts"


def test_another_seed_gives_another_latent(make_task: Callable[..., Task]) -> None:
    latent = {seed: fitted("vae", make_task(seed=seed, max_epochs=1), n_latent=3).latent for seed in (0, 1)}
    assert latent[0].shape == (120, 3)
    assert not np.allclose(latent[0], latent[1])


@pytest.mark.parametrize("name", ["vae", "isovae", "isoscvi", "isometry", "local-isometry"])
def test_positions_matter_to_those_that_see_them(make_task: Callable[..., Task], name: str) -> None:
    task, moved = make_task(), make_task()
    moved.seen.obsm["spatial"] = np.random.default_rng(1).permutation(moved.seen.obsm["spatial"])
    # a constraint acts after the first steps only
    settings = {"penalty": 100.0} if find(name).sees_positions else {}
    same = np.array_equal(fitted(name, task, **settings).latent, fitted(name, moved, **settings).latent)
    assert same is not find(name).sees_positions


@pytest.mark.parametrize("name", ["isovae", "isoscvi", "scvi-default", "isometry", "local-isometry"])
def test_the_model_tells_likelihood_and_expression_of_data_without_positions(
    make_task: Callable[..., Task], placement: Spots, name: str
) -> None:
    task = make_task(max_epochs=1)
    figures = evaluate_fit(fitted(name, task).model, task.spots, placement)
    assert set(figures) == {"train", "heldout", "all"}
    assert all(np.isfinite(list(of.values())).all() for of in figures.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_setting_that_a_method_does_not_have_is_refused(task: Task, name: str) -> None:
    with pytest.raises(InputError, match=f"method {name} was given .* tarjet. Its settings are .*n_latent"):
        fitted(name, task, tarjet=0.2)


def test_data_without_validation_spots_trains_to_the_end(make_task: Callable[..., Task]) -> None:
    for name in ("vae", "local-isometry"):
        task = make_task()
        task.seen.obs["isovi_split"] = "train"
        assert fitted(name, task).epochs == EPOCHS.get(name, 2)
