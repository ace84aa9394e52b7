"""Draw the picture of the landing page: a real section, and where held-out spots lie in two latent spaces.

The runs are made by::

    isovi fit ../shared/data/her2st_G2.h5ad --out run --holdout 0.25 --label-key label
    isovi fit ../shared/data/her2st_G2.h5ad --out plain --holdout 0.25 --label-key label --plain

and the picture by ``python docs/pictures/front.py run plain docs/_static/front.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np

import isovi


def draw(run: Path, plain: Path, save: Path) -> None:
    """Tissue by position, and the held-out spots of both runs in the same colours; of ours the place part."""
    ours, theirs = (anndata.read_h5ad(folder / "adata.h5ad") for folder in (run, plain))
    heldout = (ours.obs["isovi_split"] == "heldout").to_numpy()
    if not np.array_equal(heldout, (theirs.obs["isovi_split"] == "heldout").to_numpy()):
        raise SystemExit("The runs held out different spots.")
    tissue = np.asarray(ours.obsm["spatial"][heldout], dtype=float)
    panels = {
        "Section of a breast tumour": tissue,
        "Latent space, no distance term": theirs.obsm["X_isovi"][heldout],
        "Latent space of isoVI": ours.obsm["X_isovi_place"][heldout],
    }
    wide = {"width_ratios": (0.001, 1, 1, 1)}
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.9), layout="constrained", gridspec_kw=wide)
    isovi.pl.latent_map(panels, tissue, ax=list(axes))
    axes[0].remove()  # the tissue is drawn as the latent spaces are
    middle = (tissue.min(axis=0) + tissue.max(axis=0)) / 2
    half = 0.56 * np.ptp(tissue, axis=0).max()
    for ax, title in zip(axes[1:], panels, strict=True):
        explained = float(ax.get_title().partition("R² = ")[2])
        below = f"{explained:.0%} of the positions explained"
        if panels[title] is tissue:
            below = f"{heldout.sum()} held-out spots, coloured by position"
        ax.set_title(f"{title}\n", fontsize=13, fontweight="bold")
        ax.text(0.5, 1.03, below, transform=ax.transAxes, ha="center", fontsize=11, color="#555555")
        ax.set_aspect("equal", adjustable="box")
        ax.set_xlim(middle[0] - half, middle[0] + half)
        ax.set_ylim(middle[1] + 0.8 * half, middle[1] - 0.8 * half)
    figure.savefig(save, dpi=160, facecolor="white", bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("run", "plain", "save"):
        parser.add_argument(name, type=Path)
    draw(**vars(parser.parse_args()))
