from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isovi.errors import InputError
from isovi_bench.studies import theorem

METHODS = ["scvi", "isoscvi", {"name": "isoscvi", "variant": "loose", "settings": {"target": 0.4}}]


def noisy(coordinates: np.ndarray, variant: str) -> np.ndarray:
    """More noise the looser the target."""
    noise = {"scvi": 4.0, "loose": 1.0, "isoscvi": 0.2}[variant]
    return 3 * coordinates + noise * np.random.default_rng(0).normal(size=coordinates.shape)


def arrays(latent: np.ndarray, coordinates: np.ndarray) -> dict[str, Any]:
    n = len(coordinates)
    split = np.where(np.arange(n) % 3 == 0, "heldout", "train")
    return {
        "latent": latent,
        "coordinates": coordinates,
        "section": np.zeros(n, dtype=np.int64),
        "split": split,
    }


def test_an_isometry_has_no_distortion_and_constant_one() -> None:
    coordinates = np.random.default_rng(0).uniform(0, 10, (60, 2))
    rows = theorem.measure(**arrays(2.5 * coordinates[:, ::-1], coordinates))
    assert len(rows) == len(theorem.PARTS) * len(theorem.EPSILONS)
    for row in rows:
        assert row["relative"] == pytest.approx(0, abs=1e-6)
        assert row["L"] == pytest.approx(1, abs=1e-6) == row["L_weighted"]


@given(noise=st.floats(0.01, 3), seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_explicit_bound_holds_wherever_it_says_anything(noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coordinates = rng.uniform(0, 10, (45, 2))
    latent = coordinates + noise * rng.standard_t(3, size=coordinates.shape)
    for row in theorem.measure(**arrays(latent, coordinates)):
        x = row["relative"] / row["epsilon"]
        assert x >= 1 or row["L_weighted"] <= (1 + x) / (1 - x) * (1 + 1e-6)


def test_targets_are_read_from_the_settings_of_the_jobs(ran, tissue) -> None:
    options = ran(noisy, datasets=[tissue], methods=METHODS, seeds=[0, 1])
    table = theorem.measured(options.out)
    assert len(table) == 2 * 3 * 2 * 5
    by_target = table[table.epsilon == 0.1].groupby(table.target.fillna(np.inf))[["relative", "L"]].mean()
    assert list(by_target.index) == [0.2, 0.4, np.inf]
    assert (np.diff(by_target["relative"]) > 0).all() and (np.diff(by_target["L"]) > 0).all()


def test_the_page_has_a_plot_a_row_for_each_target_and_no_placeholder(ran, tissue, tmp_path) -> None:
    options = ran(noisy, datasets=[tissue], methods=METHODS, seeds=[0])
    page, plot = theorem.write(options.out, tmp_path / "docs" / "theorem.md")
    text = page.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "(_static/theorem.png)" in text and "Means over seeds (0)" in text
    targets = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| tissue | ")][2:]
    assert targets == ["none", "0.4", "0.2"]
    assert "{{" not in text and "nan" not in text


def test_line_and_exponents_are_those_the_data_was_made_with() -> None:
    r, epsilon = (grid.ravel() for grid in np.meshgrid([0.05, 0.1, 0.3], [0.05, 0.1, 0.5]))
    power = pd.DataFrame({"relative": r, "epsilon": epsilon, "L": 1 + 2 * r**1.5 / epsilon})
    assert theorem.exponents(power) == pytest.approx((1.5, -1))
    assert np.isnan(theorem.exponents(power.assign(L=1.0))).all()  # isometries
    x = power.relative / power.epsilon
    assert theorem.line(x, 1.25 + 3 * x) == pytest.approx((1.25, 3, 1))


def test_results_without_latents_are_refused(ran, tissue) -> None:
    options = ran(noisy, keep=False, datasets=[tissue], methods=["scvi"])
    with pytest.raises(InputError, match="has no latents of isoscvi or scvi with held-out spots"):
        theorem.measured(options.out)
