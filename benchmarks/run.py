"""Time of a fit against plain scVI, side by side in one run, as a ratio.

Run ``make bench``. Both models see the same spots, genes, batch size and number of epochs; fits alternate,
and the ratio is that of the medians. Real data is used where it lies in ``../shared/data``, else a simulated
tissue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scvi

import isovi
from isovi.simulate import simulate
from isovi.workflow.prepare import select_genes


def load(path: Path) -> tuple[str, anndata.AnnData]:
    """The section, with 2,000 highly variable genes."""
    name = path.stem if path.exists() else "simulated layers"
    adata = anndata.read_h5ad(path) if path.exists() else simulate("layers", 3600, 2000, seed=0)
    genes = select_genes(adata, np.ones(adata.n_obs, dtype=bool), n_top_genes=2000)
    return name, adata[:, genes].copy()


def seconds(model_class: Any, adata: anndata.AnnData, epochs: int, **model_kwargs: Any) -> float:
    """Wall time of one training, from set-up to the trained model."""
    scvi.settings.seed = 0
    seen = adata.copy()
    started = time.perf_counter()
    model_class.setup_anndata(seen)
    model = model_class(seen, **model_kwargs)
    model.train(epochs, enable_progress_bar=False)
    return time.perf_counter() - started


def compare(adata: anndata.AnnData, epochs: int, repeats: int) -> dict[str, list[float]]:
    """Alternating timings; one short fit of each first, so that nothing is timed cold."""
    contenders = {"scvi": (scvi.model.SCVI, {}), "isovi": (isovi.IsoSCVI, {})}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for model_class, kwargs in contenders.values():
        seconds(model_class, adata, 1, **kwargs)
    for _ in range(repeats):
        for name, (model_class, kwargs) in contenders.items():
            times[name].append(seconds(model_class, adata, epochs, **kwargs))
    return times


def main() -> None:
    """Run, print and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/dlpfc_151673.h5ad"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    given = parser.parse_args()
    name, adata = load(given.data)
    times = compare(adata, given.epochs, given.repeats)
    ratio = statistics.median(times["isovi"]) / statistics.median(times["scvi"])
    record = {"data": name, "n_obs": adata.n_obs, "n_genes": adata.n_vars, "epochs": given.epochs}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({**record, "seconds": times, "ratio": ratio}, indent=2))
    print(f"| data | spots | genes | epochs | scVI (s) | isoVI (s) | ratio |\n|{'---|' * 7}")
    medians = [f"{statistics.median(times[key]):.2f}" for key in ("scvi", "isovi")]
    cells = [name, str(adata.n_obs), str(adata.n_vars), str(given.epochs), *medians, f"{ratio:.3f}"]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
