"""The inputs of the fuzzer: a small tissue, with one mutation or two."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from anndata import AnnData
from numpy.random import Generator, default_rng
from scipy import sparse

from isovi_fuzz.mutations import BYTES, MEMORY, STRUCTURE

MUTATIONS = {one.__name__: one for one in (*MEMORY, *STRUCTURE, *BYTES)}
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("--section-key", "section"),
    ("--section-key", "section", "--label-key", "domain"),
    ("--label-key", "domain", "--batch-key", "batch"),
    ("--section-key", "section", "--label-key", "domain", "--batch-key", "batch"),
    ("--plain", "--min-counts", "1"),
    ("--backbone", "vae", "--label-key", "domain"),
    ("--pairs", "knn:3", "--n-top-genes", "10"),
    ("--pairs", "all+delaunay", "--min-counts", "1", "--section-key", "section"),
    ("--n-top-genes", "0", "--holdout", "0", "--label-key", "domain"),
    ("--layer", "counts"),
)
USES = {"section": "--section-key", "label": "--label-key", "batch": "--batch-key", "column": "--section-key"}
FIT = ("--max-epochs", "1", "--n-latent", "3")


def tissue(rng: Generator) -> AnnData:
    """60 to 100 spots, 30 to 60 genes, one section or two, counts in some form."""
    from isovi.simulate import simulate

    n, sections = int(rng.integers(60, 101)), int(rng.integers(1, 3))
    adata = simulate("layers", n, int(rng.integers(30, 61)), sections, seed=int(rng.integers(100)))
    adata.X = adata.X.astype(np.float32)
    adata.obs["section"] = adata.obs["section"].astype(str).astype("category")
    adata.obs["batch"] = np.where(np.arange(n) % 2, "a", "b")
    if rng.random() < 0.3:
        adata.layers["counts"] = adata.X.copy()
    return adata


def options(rng: Generator, name: str) -> list[str]:
    """Options of the fit that has to do with what was changed."""
    wanted = next((option for word, option in USES.items() if word in name), None)
    fitting = [one for one in OPTIONS if wanted is None or wanted in one]
    return list(fitting[int(rng.integers(len(fitting)))])


def write(folder: str, name: str, seed: int) -> None:
    """Write the mutated input and ``case.json``: the options of the fit, and the name of the file.

    What no file can hold is pickled, for the functions of Python.
    """
    anndata.settings.allow_write_nullable_strings = True
    rng = default_rng([seed, sum(name.encode())])
    adata, mutation = tissue(rng), MUTATIONS[name]
    place = Path(folder) / "in"
    place.mkdir()
    path = place / ("tissue.h5ad" if rng.random() < 0.6 else "tissue.zarr")
    if mutation in MEMORY:
        adata = mutation(rng, adata) or adata
        if rng.random() < 0.15:
            second = MEMORY[int(rng.integers(len(MEMORY)))]
            adata = second(rng, adata) or adata if adata.X is not None and min(adata.shape) > 2 else adata
    try:
        _write(adata, path, zarr_format=int(rng.choice([2, 3])))
    except Exception:  # whatever anndata does not write
        if mutation not in MEMORY:
            raise
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path = place / "tissue.pickle"
        path.write_bytes(pickle.dumps(adata))
    if mutation in STRUCTURE:
        _restructure(mutation, rng, path)
    elif mutation in BYTES:
        mutation(rng, path)
    (Path(folder) / "case.json").write_text(
        json.dumps({"input": f"in/{path.name}", "options": options(rng, name)})
    )


def _write(adata: AnnData, path: Path, zarr_format: int) -> None:
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return
    anndata.settings.zarr_write_format = zarr_format
    adata.write_zarr(path)


def _restructure(mutation: Any, rng: Generator, path: Path) -> None:
    if path.suffix == ".h5ad":
        with h5py.File(path, "r+") as file:
            mutation(rng, file)
        return
    import zarr

    _forget_consolidated(path)
    mutation(rng, zarr.open_group(str(path), mode="r+", use_consolidated=False))


def _forget_consolidated(path: Path) -> None:
    """Remove the second copy of a store's metadata, which would hide a change."""
    (path / ".zmetadata").unlink(missing_ok=True)
    root = path / "zarr.json"
    if root.exists():
        metadata = json.loads(root.read_text())
        metadata.pop("consolidated_metadata", None)
        root.write_text(json.dumps(metadata))


def fit_in_memory(file: str) -> None:
    """Fit what no file can hold, and check that it was not changed."""
    from isovi import fit
    from isovi.errors import IsoviError

    adata = pickle.loads(Path(file).read_bytes())  # our own
    before = pickle.dumps(adata)
    keys = {
        key: name for key, name in (("section_key", "section"), ("label_key", "domain")) if name in adata.obs
    }
    try:
        run = fit(adata, holdout=0.25, max_epochs=1, n_latent=3, **keys)
    except IsoviError as error:
        print(f"Error: {error}")  # noqa: T201  # as the command line does
        raise SystemExit(2) from None
    if pickle.dumps(adata) != before:
        raise SystemExit("The caller's data was changed")
    if not np.isfinite(run.adata.obsm["X_isovi"]).all():
        raise SystemExit("The latent representation is not finite")


def whole(counts: Any) -> np.ndarray:
    """Counts as a dense array."""
    return counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
