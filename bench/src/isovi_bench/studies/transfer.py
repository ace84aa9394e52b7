"""Positions in another section: fit on some sections, place a further one, beside baselines.

Sections have frames of their own. Those of the reference are aligned by their centres, and two errors
count: the one after the similarity that fits all spots best, and the one after the rigid motion that fits
50 spots of the query whose positions are known (``framed_``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import normalize

import isovi
from isovi.data import io
from isovi.errors import InputError
from isovi.geometry.align import similarity
from isovi.pipeline import choose_genes, split
from isovi.reconstruct.placer import Method
from isovi.run import Settings
from isovi.spots import SPLIT_KEY, TRAIN, VALIDATION, Spots, spacing
from isovi.tl import SpatialPlacer, placement_error
from isovi.tl.metrics import lognorm
from isovi_bench.grid import make_known
from isovi_bench.prepare import SECTION_KEY
from isovi_bench.rendering import markdown
from isovi_bench.rows import Rows
from isovi_bench.studies.placement import N_COMPONENTS, N_FEATURES, baselines, novosparc_places
from isovi_bench.task import Task, find

EPOCHS = 50  # of fine-tuning
KNOWN = 50  # spots of the query whose positions are known, where any are
SHOWN = (
    *("aligned_median_error", "framed_median_error", "median_error", "spearman_distance"),
    *("coverage", "framed_coverage", "flagged", "shift"),
)


@dataclass(frozen=True)
class Transfer:
    """A reference and a query.

    Attributes
    ----------
    reference
        Sections of the reference joined in the frame of the first, with ``obs["section"]`` and the split.
    query
        Another section, whose positions are to be found.
    known
        Spots of the query whose positions are known, where any are.
    seed
        Of the split, the fits and the known spots.
    """

    reference: AnnData
    query: AnnData
    known: NDArray[np.bool_]
    seed: int

    @property
    def validation(self) -> NDArray[np.bool_]:
        """Spots of the reference that stop the training and calibrate the regions."""
        return self.reference.obs[SPLIT_KEY].to_numpy() == VALIDATION


def measure(
    pairs: Sequence[str],
    data: Path,
    out: Path,
    seeds: Sequence[int] = (0,),
    max_epochs: int | None = None,
    novosparc: Path | None = None,
) -> pd.DataFrame:
    """Run the transfers that are not in the file yet.

    Parameters
    ----------
    pairs
        ``"A+B:QUERY"``, names of files without ``.h5ad``.
    data
        Folder of the files.
    out
        File of the rows.
    seeds
        Of split, fits and known spots.
    max_epochs
        Of each fit, at most; by the number of spots by default.
    novosparc
        Python interpreter that has novoSpaRc, to place with it as well.

    Returns
    -------
    A row for each reference, query, seed and method.

    Raises
    ------
    InputError
        If a pair is not of that form, or a file cannot be read.
    """
    rows = Rows(out)
    done = {(row["reference"], row["query"], row["seed"]) for row in rows.read()}
    for pair, seed in itertools.product(pairs, seeds):
        reference, _, query = pair.partition(":")
        if not reference or not query:
            raise InputError(
                f"pairs={pair}.", "A pair is REFERENCE:QUERY.", "Join several reference sections with +."
            )
        if (reference, query, seed) not in done:
            given = read(data, reference.split("+"), query, seed)
            about = {"reference": reference, "query": query, "seed": seed}
            rows.add(about | row for row in run(given, max_epochs, novosparc))
    return rows.frame()


def read(data: Path, names: list[str], query: str, seed: int) -> Transfer:
    """Read the sections, on the genes that all have and that vary most in the reference.

    Parameters
    ----------
    data
        Folder of the files.
    names, query
        Of the files, without ``.h5ad``.
    seed
        Of the split and the known spots.
    """
    sections = [io.read(data / f"{name}.h5ad") for name in names]
    centre = sections[0].obsm["spatial"].mean(axis=0)
    for adata, name in zip(sections, names, strict=True):
        adata.obs = pd.DataFrame({SECTION_KEY: name}, index=[f"{name}_{cell}" for cell in adata.obs_names])
        where = np.asarray(adata.obsm["spatial"], dtype=float)
        adata.obsm = {"spatial": where - where.mean(axis=0) + centre}
    reference, asked = anndata.concat(sections, join="inner"), io.read(data / f"{query}.h5ad")
    asked.obs_names = [f"{query}_{cell}" for cell in asked.obs_names]
    reference = reference[:, reference.var_names.isin(asked.var_names)].copy()
    every = Spots(reference.obsm["spatial"], split=np.full(reference.n_obs, TRAIN, dtype="<U10"))
    reference = reference[:, choose_genes(reference, every, Settings())].copy()
    reference.obs[SPLIT_KEY] = split(reference, Settings(holdout=0.0, seed=seed)).split
    known = np.zeros(asked.n_obs, dtype=bool)
    known[np.random.default_rng(seed).permutation(asked.n_obs)[:KNOWN]] = True
    return Transfer(reference, asked, known, seed)


def run(
    given: Transfer, max_epochs: int | None = None, novosparc: Path | None = None
) -> list[dict[str, Any]]:
    """A row for each baseline, and for isoVI and the plain network, zero-shot and fine-tuned."""
    make_known(())
    reference = given.reference
    task = Task(reference, reference, np.arange(reference.n_obs), given.seed, max_epochs=max_epochs)
    models = {name: find(name).fit(task).model for name in ("isoscvi", "scvi", "scvi-default")}
    placers: dict[str, tuple[Any, Method]] = {
        "isovi, zero-shot": (models["isoscvi"], "joint"),
        "isovi, fine-tuned": (tuned(models["isoscvi"], given, np.zeros_like(given.known)), "joint"),
        f"isovi, fine-tuned, {KNOWN} known": (tuned(models["isoscvi"], given, given.known), "joint"),
        "plain, zero-shot": (models["scvi"], "latent"),
    }
    others = places_by_regression(given, models["scvi-default"], novosparc)
    rows = [{"method": name, **errors(given, where, None)} for name, where in others.items()]
    for name, (model, method) in placers.items():
        placer = SpatialPlacer(model, method=method, seed=given.seed)
        placed = placer.fit(reference, calibration=given.validation).place(given.query)
        rows.append({"method": name, **errors(given, placed.positions, placed)})
    return rows


def tuned(model: Any, given: Transfer, known: NDArray[np.bool_]) -> Any:
    """The model after some epochs on the query's expression, and on the positions of the known spots."""
    query = given.query[:, given.reference.var_names].copy()
    query.obsm["spatial"] = np.where(known[:, None], np.asarray(query.obsm["spatial"], dtype=float), np.nan)
    query.obs[SECTION_KEY] = given.reference.obs[SECTION_KEY].iloc[0]
    found = isovi.IsoSCVI.load_query_data(query, model, unfrozen=True)
    found.train(EPOCHS, enable_progress_bar=False)
    return found


def places_by_regression(
    given: Transfer, backbone: Any, novosparc: Path | None
) -> dict[str, NDArray[np.float64]]:
    """Positions of the query from expression or from scVI's latent, learned from the reference.

    Parameters
    ----------
    given
        Reference and query.
    backbone
        ``scvi.model.SCVI`` fitted to the reference.
    novosparc
        Interpreter that has novoSpaRc.
    """
    reference, query = given.reference, given.query[:, given.reference.var_names].copy()
    train, positions = ~given.validation, np.asarray(given.reference.obsm["spatial"], dtype=float)
    target = float(np.median(np.asarray(reference.X[train].sum(axis=1))))
    values = [lognorm(adata.X, target_sum=target) for adata in (reference, query)]
    pca = PCA(N_COMPONENTS, random_state=0).fit(values[0][train])
    components = [pca.transform(expression) for expression in values]
    directions = [normalize(part[:, :N_FEATURES]) for part in components]
    seen, asked = (
        {
            **baselines(part, scVI=backbone.get_latent_representation(adata)),
            f"10-NN, PCA-{N_FEATURES} (unit length)": (unit, KNeighborsRegressor(10)),
        }
        for part, unit, adata in zip(components, directions, (reference, query), strict=True)
    )
    found = {
        name: regression.fit(features, positions).predict(asked[name][0])
        for name, (features, regression) in seen.items()
    }
    own = KNeighborsRegressor(10).fit(directions[1][given.known], query.obsm["spatial"][given.known])
    found[f"10-NN among {KNOWN} known"] = own.predict(directions[1])
    return (
        found if novosparc is None else found | novosparc_places(novosparc, values[0], positions, values[1])
    )


def errors(given: Transfer, where: NDArray, placed: Any) -> dict[str, Any]:
    """Errors in spacings of the query; ``framed_`` are those of the spots that are not known.

    Parameters
    ----------
    given
        Reference and query.
    where
        Positions of the query's spots.
    placed
        What the placer returned besides, or ``None``.
    """
    truth, known = np.asarray(given.query.obsm["spatial"], dtype=float), given.known
    unit = spacing(truth)
    found = placement_error(where, truth, radius=None if placed is None else placed.radius, unit=unit)
    frame = similarity(where[known], truth[known], scaling=False)
    moved = np.linalg.norm(frame.apply(where) - truth, axis=1)[~known]
    found["framed_median_error"] = float(np.median(moved)) / unit
    if placed is None:
        return found
    found["framed_coverage"] = float((moved <= placed.radius[~known]).mean())
    return {**found, "flagged": float(placed.flagged.mean()), "shift": placed.shift}


def report(rows: pd.DataFrame) -> str:
    """Markdown: mean and standard deviation over the seeds of each transfer.

    Parameters
    ----------
    rows
        See :func:`measure`.
    """
    groups = rows.groupby(["reference", "query", "method"], sort=False)
    mean, sd = (
        statistic.round(3).astype(str) for statistic in (groups[[*SHOWN]].mean(), groups[[*SHOWN]].std())
    )
    return markdown((mean + " (" + sd + ")").assign(seeds=groups.size()).reset_index())
