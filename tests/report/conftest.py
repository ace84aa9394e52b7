"""A short run with all that a report can show, and one of the plain backbone beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from isovi import files
from isovi.model.objective import Penalty
from isovi.report.render import html
from isovi.report.summarise import Report
from isovi.report.write import report
from isovi.run import Settings
from isovi.simulate import simulate

MARKUP = "</script><b>"  # a section name that must stay text


@pytest.fixture(scope="session")
def tissue_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adata = simulate("layers", n_obs=300, n_genes=60, n_sections=2, seed=0)
    names = adata.obs["section"].cat.categories
    adata.obs["section"] = adata.obs["section"].cat.rename_categories({names[0]: MARKUP})
    domain = adata.obs["domain"].astype(str)
    adata.obs["domain"] = domain.where(np.arange(adata.n_obs) % 15 > 0, "undetermined").astype("category")
    pictured = (adata.obs["section"] == names[1]).to_numpy()
    adata.obsm["spatial"][pictured] -= adata.obsm["spatial"][pictured].min(axis=0) - 100  # on the image
    adata.uns["spatial"] = {names[1]: picture(adata.obsm["spatial"][pictured])}
    path = tmp_path_factory.mktemp("input") / "tissue.h5ad"
    adata.write_h5ad(path)
    return path


def picture(positions: np.ndarray) -> dict[str, Any]:
    """An image that is brighter to the right, a tenth as large as the positions, 100 micrometres apart."""
    width, height = (positions.max(axis=0) / 10).round().astype(int) + 20
    shade = np.clip(255 * 10 * (np.arange(width) + 0.5) / positions[:, 0].max(), 0, 255)
    pixels = np.repeat(np.tile(shade, (height, 1))[..., None], 3, axis=2).astype(np.uint8)
    near = np.median(cKDTree(positions).query(positions, 2)[0][:, 1])
    factors = {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": near / 1.8}
    return {"images": {"hires": pixels}, "scalefactors": factors}


@pytest.fixture(scope="session")
def fit() -> Callable[..., Path]:
    """A function that fits for a few epochs, without plots, and gives the folder."""

    def run(file: Path, out: Path, **options: Any) -> Path:
        asked = {"max_epochs": 3, "n_latent": 4, "holdout": 0.4, "label_key": "domain", **options}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "draw", lambda *_: None)
            files.fit(file, out, Settings(**asked), call=f"isovi fit {file.name}")
        return out

    return run


@pytest.fixture(scope="session")
def folder(tissue_file: Path, fit: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two sections; tests only read it."""
    return fit(tissue_file, tmp_path_factory.mktemp("runs") / "run", section_key="section")


@pytest.fixture(scope="session")
def plain_folder(
    tissue_file: Path, fit: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "plain"
    return fit(tissue_file, out, section_key="section", distortion=Penalty(0.0))


@pytest.fixture(scope="session")
def written(folder: Path, plain_folder: Path) -> Report:
    """The report that was written into the folder."""
    return report(folder, beside=plain_folder)


@pytest.fixture(scope="session")
def page_of(written: Report) -> Callable[[int], str]:
    """A function that renders a report of so many spots with 45 colours."""

    def render(n: int) -> str:
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(n, 2)).astype(np.float32)
        colors = [
            replace(written.spots.channels[-1], values=rng.normal(size=n).astype(np.float32))
            for _ in range(45)
        ]
        names = np.array([f"ACGTACGTACGT{number}-1" for number in range(n)])
        return html(
            replace(
                written,
                spots=replace(
                    written.spots,
                    names=names,
                    tissue=noise,
                    latent=noise,
                    parts=tuple((name, noise) for name, _ in written.spots.parts),
                    channels=tuple(colors),
                    section=np.zeros(n, dtype=np.int64),
                ),
                genes=None,
            )
        )

    return render
