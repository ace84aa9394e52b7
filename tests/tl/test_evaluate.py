from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import stats

from isovi import IsoSCVI
from isovi.simulate import simulate
from isovi.spots import Spots
from isovi.tl import METRICS
from isovi.tl.evaluate import evaluate_fit, evaluate_geometry, n_samples

GEOMETRY = {"morans_i", "gearys_c", "relative_distortion", "spearman_distance"}
GEOMETRY |= {"distortion_constant", "anisotropy"}


def grid(n: int = 12, sections: int = 1, heldout: float = 0.25) -> Spots:
    """Square grids of about unit spacing (no two distances alike: ranks are told apart)."""
    rng = np.random.default_rng(0)
    one = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)
    coordinates = np.tile(one, (sections, 1)) + rng.uniform(-0.1, 0.1, (sections * n * n, 2))
    section = np.repeat(np.arange(sections), n * n)
    drawn = rng.uniform(size=len(section))
    split = np.select([drawn < heldout, drawn > 0.92], ["heldout", "validation"], "train").astype("<U10")
    return Spots(coordinates, section, split=split)


def rotated(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The points under an isometry into five dimensions."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))
    return values @ basis[: values.shape[1]] + 3.0


def noise(spots: Spots) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(spots.section), 5))


def test_each_set_has_its_figures_and_only_held_out_spots_a_coordinate_error() -> None:
    found = evaluate_geometry(noise(grid()), grid())
    assert {name: set(figures) for name, figures in found.items()} == {
        "train": GEOMETRY,
        "heldout": GEOMETRY | {"coordinate_error"},
        "all": GEOMETRY,
    }


@pytest.mark.parametrize(("n_spots", "n"), [(0, 5), (4_000, 5), (4_001, 4), (10_001, 1), (20_000, 1)])
def test_of_many_spots_fewer_samples_are_drawn(n_spots: int, n: int) -> None:
    assert n_samples(n_spots) == n


def test_every_metric_of_the_table_is_returned_for_its_subsets_and_no_other(
    tissue: AnnData, certain: IsoSCVI
) -> None:
    spots = placed(tissue)
    geometry = evaluate_geometry(certain.get_latent_representation(), spots)
    likelihood = evaluate_fit(certain, tissue, spots)
    assert set(geometry) == set(likelihood) == {"train", "heldout", "all"}
    for part in geometry:
        assert not set(geometry[part]) & set(likelihood[part])
        expected = {name for name, metric in METRICS.items() if part in metric.spots}
        assert {*geometry[part], *likelihood[part]} == expected


def test_the_table_says_what_each_metric_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name and metric.label and metric.source
        assert metric.better in ("lower", "higher")
        assert set(metric.spots) <= {"train", "heldout", "all"}
        assert metric.title == (f"{metric.label} ({metric.unit})" if metric.unit else metric.label)
    assert METRICS["coordinate_error"].spots == ("heldout",)


def test_without_held_out_spots_there_is_no_such_set() -> None:
    assert set(evaluate_geometry(noise(grid(heldout=0)), grid(heldout=0))) == {"train", "all"}


@pytest.mark.parametrize("sections", [1, 2])
@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_a_scaled_isometry_is_free_of_distortion(scale: float, sections: int) -> None:
    spots = grid(sections=sections)
    found = evaluate_geometry(scale * rotated(spots.coordinates), spots)
    for figures in found.values():
        assert figures["relative_distortion"] == pytest.approx(0, abs=1e-9)
        assert figures["spearman_distance"] == pytest.approx(1, abs=1e-6)
        assert figures["distortion_constant"] == pytest.approx(1, abs=1e-4)
        assert figures["anisotropy"] == pytest.approx(1, abs=1e-4)
        assert figures["morans_i"] > 0.5 > figures["gearys_c"]
    # the mean of the ten nearest training spots around: within one spacing inside the grid
    assert found["heldout"]["coordinate_error"] < 1


def test_a_latent_that_knows_no_tissue_says_so() -> None:
    found = evaluate_geometry(noise(grid()), grid())
    for figures in found.values():
        assert figures["relative_distortion"] > 0.3
        assert abs(figures["spearman_distance"]) < 0.15
        assert abs(figures["morans_i"]) < 0.15
        assert figures["gearys_c"] == pytest.approx(1, abs=0.15)
    assert found["heldout"]["coordinate_error"] > 2


def test_figures_do_not_change_with_the_units_of_either_space() -> None:
    spots = grid()
    latent = spots.coordinates @ np.array([[1.0, 0.3], [0.0, 0.5]]) + 0.2 * noise(spots)[:, :2]
    expected = evaluate_geometry(latent, spots)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    moved = replace(spots, coordinates=spots.coordinates @ turn + 7)
    for other in (evaluate_geometry(5 * latent + 2, spots), evaluate_geometry(latent, moved)):
        for name, figures in expected.items():
            assert other[name] == pytest.approx(figures, rel=1e-6)


def test_the_scale_is_fitted_to_training_spots_alone() -> None:
    spots = grid()
    latent = spots.coordinates.copy()
    latent[spots.split == "heldout"] *= 2
    found = evaluate_geometry(latent, spots)
    assert found["train"]["relative_distortion"] == pytest.approx(0, abs=1e-9)
    assert found["heldout"]["relative_distortion"] == pytest.approx(1)


def test_other_sections_are_no_matter() -> None:
    spots = grid(sections=2)
    latent = rotated(spots.coordinates)
    latent[spots.section == 1] += 1000
    found = evaluate_geometry(latent, spots)
    assert found["all"]["relative_distortion"] == pytest.approx(0, abs=1e-9)


def test_spearman_is_that_of_all_pairs() -> None:
    spots = grid(n=8, heldout=0)
    latent = spots.coordinates + 2 * noise(spots)[:, :2]
    rows, columns = np.triu_indices(64, 1)

    def apart(values: np.ndarray) -> np.ndarray:
        return np.linalg.norm(values[rows] - values[columns], axis=1)

    expected = stats.spearmanr(apart(latent), apart(spots.coordinates)).statistic
    found = evaluate_geometry(latent, spots)["all"]["spearman_distance"]
    assert found == pytest.approx(expected, abs=0.01)  # 200,000 draws


# ---------------------------------------------------------------------------- the fit


@pytest.fixture
def tissue() -> AnnData:
    return simulate("layers", n_obs=120, n_genes=40, seed=0)


@pytest.fixture
def certain(tissue: AnnData) -> IsoSCVI:
    """A model whose posterior has almost no spread, so that what it says does not depend on samples."""
    IsoSCVI.setup_anndata(tissue)
    torch.manual_seed(0)
    model = IsoSCVI(tissue, n_latent=3, n_hidden=8, distortion=None)
    model.is_trained_ = True
    model.to_device("cpu")
    with torch.no_grad():
        model.module.z_encoder.var_encoder.weight.zero_()
        model.module.z_encoder.var_encoder.bias.fill_(-30)
    model.module.z_encoder.var_eps = 1e-12
    model.module.eval()
    return model


def placed(tissue: AnnData) -> Spots:
    split = np.where(np.arange(tissue.n_obs) % 4, "train", "heldout").astype("<U10")
    return Spots(tissue.obsm["spatial"], split=split)


@torch.no_grad()
def by_hand(model: IsoSCVI, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log likelihood of each spot at its posterior mean, and expected shares of genes."""
    x, batch = torch.as_tensor(counts), torch.zeros(len(counts), 1)
    library = torch.log(x.sum(1, keepdim=True))
    z = model.module.z_encoder(torch.log1p(x), batch)[0].loc
    shares, _, rate, dropout = model.module.decoder("gene", z, library, batch)
    mean, theta = rate.double(), model.module.px_r.exp().double()
    zero, x = torch.sigmoid(dropout.double()), x.double()
    log_nb = (
        torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        + theta * torch.log(theta / (theta + mean)) + x * torch.log(mean / (theta + mean))
    )  # fmt: skip
    log_zinb = torch.log((1 - zero) * log_nb.exp() + zero * (x == 0))
    return -log_zinb.sum(1).numpy(), shares.numpy()


def test_reconstruction_is_the_negative_log_likelihood_of_the_counts(
    tissue: AnnData, certain: IsoSCVI
) -> None:
    spots = placed(tissue)
    found = evaluate_fit(certain, tissue, spots)
    nll, shares = by_hand(certain, tissue.X.toarray())
    counts = tissue.X.toarray().astype(float)
    observed = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    squared = (observed - np.log1p(1e4 * shares)) ** 2
    for name, rows in spots.subsets().items():
        assert found[name]["reconstruction"] == pytest.approx(nll[rows].mean(), rel=1e-4)
        assert found[name]["mse_lognorm"] == pytest.approx(squared[rows].mean(), rel=1e-4)


def test_the_bound_lies_below_the_likelihood(tissue: AnnData, certain: IsoSCVI) -> None:
    found = evaluate_fit(certain, tissue, placed(tissue))
    for figures in found.values():  # a certain posterior is far from the prior
        assert figures["elbo"] > figures["reconstruction"] + 1


def test_the_seed_draws_the_samples_and_the_callers_generator_stays(
    tissue: AnnData, certain: IsoSCVI
) -> None:
    with torch.no_grad():
        certain.module.z_encoder.var_encoder.bias.fill_(0.0)
    state = torch.get_rng_state()
    first, again, other = (evaluate_fit(certain, tissue, placed(tissue), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first["all"]["reconstruction"] != other["all"]["reconstruction"]
