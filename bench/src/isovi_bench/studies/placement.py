"""Positions of held-out spots: ways to place them on isoVI's latents, and baselines.

The latents are those of a comparison that has run, such as that of ``grids/quality.yaml``: ``isoscvi``, and
for the baselines ``scvi`` ("plain") and ``scvi-default`` ("scVI").
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from isovi.errors import InputError
from isovi.reconstruct.placer import Method, SectionPlacer
from isovi.tl.placement_error import placement_error
from isovi_bench.job import Job
from isovi_bench.methods.components import log_normalised, principal_components
from isovi_bench.peers.environments import data
from isovi_bench.prepare import prepare
from isovi_bench.rendering import markdown
from isovi_bench.runner import RunOptions, planned
from isovi_bench.store import latent_of

WAYS: tuple[Method, ...] = ("joint", "latent", "expression", "trilateration")
OURS, PLAIN, DEFAULT = "isoscvi", "scvi", "scvi-default"
BASES = ("10-NN, plain", "10-NN, scVI")
N_COMPONENTS, N_FEATURES = 50, 20
RESULTS = "placement.csv"


@dataclass(frozen=True)
class Section:
    """Latents of one section, split and seed.

    Attributes
    ----------
    job
        Of ``isoscvi``.
    truth
        Coordinates, shape ``(cell, axis)``.
    split
        Of every spot.
    latents
        By method, shape ``(cell, latent)``.
    """

    job: Job
    truth: NDArray[np.float64]
    split: NDArray[Any]
    latents: dict[str, NDArray[np.float64]]

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Which spots are held out and to be placed."""
        return self.split == "heldout"


def measure(options: RunOptions, *, baselines: bool = True, novosparc: Path | None = None) -> pd.DataFrame:
    """Place the held-out spots of each section, split and seed of a comparison, and write ``placement.csv``.

    Parameters
    ----------
    options
        Grid, folder of its results and data; ``isovi-bench run`` has run it.
    baselines
        Whether to place by regressions on expression and on other latents as well.
    novosparc
        Python interpreter that has novoSpaRc, to place with it as well.

    Returns
    -------
    A row for each section, split, seed and method.

    Raises
    ------
    InputError
        If a latent is missing, or a data set has several sections.
    """
    plan = planned(options)
    methods = (OURS, PLAIN, DEFAULT) if baselines else (OURS,)
    rows = [
        {"set": section.job.dataset.name, "split": section.job.split, "seed": section.job.seed, **row}
        for section in _sections(plan.jobs, plan.store.folder, methods)
        for row in _placed(section, baselines, novosparc)
    ]
    found = pd.DataFrame(rows)
    found.to_csv(plan.store.folder / RESULTS, index=False)
    return found


def _sections(jobs: list[Job], folder: Path, methods: tuple[str, ...]) -> Iterator[Section]:
    """The trials of a grid that have all these methods at their defaults."""
    trials: dict[tuple[str, str, int], dict[str, Job]] = {}
    for job in jobs:
        if job.settings == "{}" and not job.shuffled and job.method in methods:
            trials.setdefault((job.dataset.name, job.split, job.seed), {})[job.method] = job
    complete = [trial for trial in trials.values() if set(trial) == set(methods)]
    if not complete:
        raise InputError(
            f"The grid has no trial with all of {', '.join(methods)} at their defaults.",
            "They are placed together.",
            "Add them to the grid.",
        )
    for trial in complete:
        arrays = {name: _arrays(folder, job) for name, job in trial.items()}
        ours = arrays[OURS]
        latents = {name: stored["latent"].astype(float) for name, stored in arrays.items()}
        yield Section(trial[OURS], ours["coordinates"].astype(float), ours["split"], latents)


def _arrays(folder: Path, job: Job) -> dict[str, NDArray]:
    arrays = latent_of(folder, job.key)
    if arrays is None:
        raise InputError(
            f"{folder} has no latent of {job.label}.",
            "Placement starts from the latents of a comparison that has run.",
            "Run isovi-bench run with the same grid and folder first.",
        )
    if len(np.unique(arrays["section"])) > 1:
        raise InputError(
            f"The data set {job.dataset.name} has several sections.",
            "Spots are placed within one.",
            "Give each section a data set of its own.",
        )
    return arrays


def _placed(section: Section, others: bool, novosparc: Path | None) -> list[dict[str, Any]]:
    """A row of each method; baselines and novoSpaRc learn from validation spots too."""
    task = prepare(section.job).task
    components = principal_components(task, N_COMPONENTS).astype(float)
    rows = _ours(section, normalize(components[:, :N_FEATURES]))
    asked = section.asked
    if others:
        latents = {"plain": section.latents[PLAIN], "scVI": section.latents[DEFAULT]}
        for name, (features, regression) in baselines(components, **latents).items():
            fitted = regression.fit(features[~asked], section.truth[~asked])
            rows.append(
                {"method": name, **placement_error(fitted.predict(features[asked]), section.truth[asked])}
            )
    if novosparc is not None:
        train = np.flatnonzero(section.split == "train")
        values = log_normalised(task.spots, train).toarray()
        places = novosparc_places(novosparc, values[~asked], section.truth[~asked], values[asked])
        rows += [{"method": name, **placement_error(at, section.truth[asked])} for name, at in places.items()]
    return rows


def _ours(section: Section, features: NDArray[np.float64]) -> list[dict[str, Any]]:
    """A row of each way to place on isoVI's latents, with calibration on the validation spots."""
    latent, asked, seen = section.latents[OURS], section.asked, ~section.asked
    validation = section.split[seen] == "validation"
    rows = []
    for method in WAYS:
        started = time.perf_counter()
        placer = SectionPlacer(method).fit(latent[seen], features[seen], section.truth[seen], validation)
        found = placer.place(latent[asked], features[asked])
        errors = placement_error(found.positions, section.truth[asked], radius=found.radius)
        about = {"flagged": float(found.flagged.mean()), "seconds": time.perf_counter() - started}
        rows.append({"method": method, "n_calibration": int(validation.sum()), **errors, **about})
    return rows


def baselines(pca: NDArray, **latents: NDArray) -> dict[str, tuple[NDArray, Any]]:
    """Features and regression of each baseline.

    Parameters
    ----------
    pca
        Principal components of expression, shape ``(cell, component)``.
    **latents
        Further features, by the name of their method.
    """
    neighbors = KNeighborsRegressor(10)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
    forest = RandomForestRegressor(100, min_samples_leaf=3, max_features=0.5, random_state=0)
    return {
        "10-NN, PCA-10": (pca[:, :10], neighbors),
        "10-NN, PCA-50": (pca, neighbors),
        **{f"10-NN, {name}": (latent, neighbors) for name, latent in latents.items()},
        "ridge, PCA-50": (pca, ridge),
        "random forest, PCA-10": (pca[:, :10], forest),
    }


def novosparc_places(
    python: Path, reference: NDArray, positions: NDArray, query: NDArray
) -> dict[str, NDArray]:
    """Positions of the query by each variant of novoSpaRc.

    Parameters
    ----------
    python
        Interpreter that has novoSpaRc.
    reference, query
        Log-normalised expression, shape ``(cell, gene)``.
    positions
        Of the reference.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, reference=reference, positions=positions, query=query)
        command = [python, data("scripts", "novosparc_places.py"), given, found]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with np.load(found) as arrays:
            return dict(arrays)


def report(rows: pd.DataFrame) -> str:
    """Two tables in Markdown: median errors by section, and coverage of ``joint``.

    Parameters
    ----------
    rows
        See :func:`measure`.
    """
    trial = ["set", "split", "seed"]
    errors = rows.pivot_table(index="method", columns="set", values="median_error", sort=False)
    each = rows.pivot_table(index="method", columns=trial, values="median_error", sort=False)
    for base in BASES:
        if base in each.index:
            errors[f"ratio to {base[7:]}"] = (each / each.loc[base]).mean(axis=1)
    joint = rows[rows["method"] == "joint"].groupby("set", sort=False)
    columns = ["coverage", "median_radius", "flagged", "spearman_distance", "contact_f1", "aligned_stress"]
    covered = joint[columns].mean().round(3)
    covered["fits"], covered["sd of coverage"] = joint["coverage"].count(), joint["coverage"].std().round(3)
    covered["cells"] = joint["n_cells"].sum()
    return f"{markdown(errors.round(2).reset_index())}\n\n{markdown(covered.reset_index())}"
