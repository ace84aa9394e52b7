"""Files in, folders out: what ``isovi fit`` and ``isovi place`` do around the functions on AnnData."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi import pl, tl
from isovi.data import check, io, pack
from isovi.data.fingerprint import training_split
from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.spatialdata import require_known_sections
from isovi.errors import InputError, IsoviError, OutputError, require_seed
from isovi.interrupts import Interrupted
from isovi.model.checkpoint import EpochCheckpoint, read_about, temporary_of
from isovi.model.distributed import is_first_process
from isovi.pipeline import run_pipeline, with_single_precision
from isovi.pl._data import shepard_pairs
from isovi.progress import Progress, Silent
from isovi.run import GENE_KEY, LATENT_KEY, Provenance, Run, Settings
from isovi.spots import HELDOUT, TRAIN, VALIDATION

PLACED_KEY = "X_placed"  # in obsm
RADIUS_KEY, FLAG_KEY, SECTION_KEY = "placed_radius_90", "placed_flag", "placed_section"  # in obs
_VERSIONS = ("isovi", "scvi-tools", "torch")  # with another version training may continue otherwise


# ---------------------------------------------------------------------------- fit


def fit(
    source: io.Source | str | Path,
    out: str | Path,
    settings: Settings,
    *,
    min_counts: int = 0,
    force: bool = False,
    resume: bool = False,
    call: str = "",
    progress: Progress | None = None,
) -> Run | None:
    """Read a file, call :func:`isovi.fit`, and write the run with its plots to a folder.

    Parameters
    ----------
    source
        Raw counts and positions, in whatever :func:`isovi.data.io.read` takes; never changed. Of a packed
        store the counts stay on disk.
    out
        Folder to write; it appears whole or not at all.
    settings
        Settings of the fit.
    min_counts
        Spots with fewer counts are left out.
    force
        Replace an earlier run in ``out``.
    resume
        Resume an unfinished run from its last checkpoint, if there is one.
    call
        How it was called, for the record.
    progress
        Receives progress; nothing is shown by default.

    Returns
    -------
    The run; ``None`` in processes other than the first.

    Raises
    ------
    InputError
        If the file or a setting cannot be used; before any training.
    OutputError
        If the folder cannot be written; before any training.
    """
    source, out, progress = io.Source.of(source), Path(out), progress or Progress()
    first = is_first_process()
    progress = progress if first else Silent()
    if min_counts < 0:
        raise InputError(
            f"min_counts={min_counts} was given.", "It must be at least 0.", "Give another number."
        )
    attempt = Attempt.of(source, out, settings, min_counts)
    if resume and not force and attempt.is_finished():
        progress.say(f"{out} is finished: there is nothing to resume")
        return Run.read(out) if first else None
    attempt.begin(resume=resume, force=force, progress=progress)
    checkpoint = EpochCheckpoint(attempt.checkpoint, attempt.about)
    provenance = attempt.provenance(source, call)
    with attempt.kept(progress), _output(out, force, first) as folder:
        adata = read(source, settings, min_counts, progress)
        scratch = io.scratch_directory(out) if pack.is_on_disk(adata.X) else None
        run = run_pipeline(adata, settings, progress, provenance, checkpoint=checkpoint, scratch=scratch)
        if run is None or folder is None:
            return None
        run.write_into(folder)
        draw(run, folder / "figures")
    run.folder = out
    progress.say(f"Wrote {out}")
    return run


@contextmanager
def _output(out: Path, force: bool, first: bool) -> Iterator[Path | None]:
    """The folder to write into, in the first process; the others refuse what it refuses."""
    if not first:
        io.require_replaceable(out, force)
        yield None
        return
    with io.output_directory(out, force) as folder:
        yield folder


def read(source: io.Source, settings: Settings, min_counts: int, progress: Progress) -> AnnData:
    """Read the input into memory without the spots of few counts, or open a packed store.

    Raises
    ------
    InputError
        If it cannot be read, has no positions, or options are given that packing has decided.
    """
    if pack.is_packed(source.path):
        given = {**source.options, **({"min_counts": min_counts} if min_counts else {})}
        if given:
            name, value = next(iter(given.items()))
            raise InputError(
                f'{name}={value} was given with "{source.path}", which is packed.',
                "What is read was chosen when it was packed.",
                "Leave it out, or give it to isovi pack.",
            )
        adata, how = pack.open_packed(source.path), "Opened"
    else:
        adata, how = io.read(source), "Read"
        if not adata.obsm:
            raise InputError(
                f'"{source.path}" has no positions.',
                "The position of every spot is needed.",
                "Pass coordinates=FILE, a table with the names of the spots and columns x and y.",
            )
        adata = drop_cells(adata, min_counts, settings.layer)
    require_known_sections(adata, settings.section_key)
    progress.say(f"{how} {adata.n_obs} spots x {adata.n_vars} genes from {source.path}")
    return adata


def draw(run: Run, folder: Path) -> None:
    """Write plots of domains, latent dimensions, training and distances into a folder."""
    folder.mkdir(exist_ok=True)
    pl.domains(run.adata, save=folder / "domains.png", **run.settings.keys)
    pl.latent(run.adata, save=folder / "latent.png", **run.settings.keys)
    pl.history(run.history, target=run.settings.target, save=folder / "history.png")
    pairs = shepard_pairs(run.adata.obsm[LATENT_KEY], run.spots, run.metrics["distance_scale"])
    pl.shepard(*pairs, save=folder / "shepard.png")


# ---------------------------------------------------------------------------- resuming


@dataclass(frozen=True)
class Attempt:
    """One attempt at a fit to a folder, which may resume an earlier one.

    Attributes
    ----------
    out
        Folder of the results.
    checkpoint
        Beside it, where training is kept until the results are there.
    about
        Settings, hash of the input and versions: what has to be the same for resuming.
    """

    what: ClassVar[str] = "run"
    suffix: ClassVar[str] = ".partial.ckpt"

    out: Path
    checkpoint: Path
    about: dict[str, str]

    @classmethod
    def of(cls, source: io.Source, out: Path, settings: Settings, min_counts: int, **more: str) -> Attempt:
        """The attempt to fit with these settings; the input is hashed."""
        final = out.expanduser().resolve()
        about = describe(settings, io.digest(source), min_counts=min_counts, **source.options, **more)
        about.pop("coordinates", None)  # a path; its content is in the hash
        return cls(final, final.with_name(f"{final.name}{cls.suffix}"), about)

    def before(self) -> dict[str, str]:
        """What the unfinished attempt was about."""
        return read_about(self.checkpoint)

    def remove(self) -> None:
        """Remove what is kept."""
        for path in (self.checkpoint, temporary_of(self.checkpoint)):
            path.unlink(missing_ok=True)

    def provenance(self, source: io.Source, call: str) -> Provenance:
        """Where the results come from."""
        n = int(self.about["min_counts"])
        asked = {"path": str(source.path), **source.options, **({"min_counts": n} if n else {})}
        return Provenance(sha256=self.about["input_sha256"], source=asked, call=call)

    def is_finished(self) -> bool:
        """Whether the folder holds the run that this attempt would make."""
        if not (self.out / io.RUN_FILE).is_file():
            return False
        run = Run.read(self.out)
        source = {name: value for name, value in run.provenance.source.items() if name != "path"}
        source.setdefault("min_counts", 0)
        known = describe(run.settings, run.provenance.sha256, **source)
        known.pop("coordinates", None)
        return known | {name: run.provenance.versions.get(name, "") for name in _VERSIONS} == self.about

    def begin(self, *, resume: bool, force: bool, progress: Progress) -> None:
        """Look for an unfinished attempt, to resume it, or to remove it where it may be replaced.

        Every process of a fit comes to the same decision: none writes the checkpoint before all train.

        Raises
        ------
        OutputError
            If there is an unfinished one, and neither ``resume`` nor ``force`` was given.
        InputError
            If the unfinished one is another one.
        """
        if not resume:
            if self.checkpoint.exists() and not force:
                raise OutputError(
                    f'An unfinished {self.what} is kept in "{self.checkpoint}".',
                    "It is not thrown away without being asked.",
                    "Resume it by resume=True, or start anew by force=True.",
                )
            self.remove()
            return
        if is_first_process():
            io.remove_leftovers(self.out)
        if not self.checkpoint.exists():
            progress.say(f"There is no unfinished {self.what} to resume: starting from the beginning")
            return
        before = self.before()
        changed = [
            name for name in sorted({*before, *self.about}) if before.get(name) != self.about.get(name)
        ]
        if changed:
            listed = "; ".join(f"{n} was {before.get(n)}, is {self.about.get(n)}" for n in changed)
            raise InputError(
                f'The unfinished {self.what} in "{self.checkpoint}" is another one: {listed}.',
                "Only the same parameters, input and packages lead to the same result.",
                "Give what was given before, or start anew by force=True without resume=True.",
            )
        progress.say(f"Resuming from {self.checkpoint}")

    @contextmanager
    def kept(self, progress: Progress) -> Iterator[None]:
        """Remove what is kept once the block has done its work; say where it is if the block fails."""
        try:
            yield
        except BaseException as error:
            if self.checkpoint.exists() and not isinstance(error, IsoviError):
                how = f"Pass resume=True to resume the {self.what} from {self.checkpoint}"
                error.add_note(how) if isinstance(error, Interrupted) else progress.say(f"Stopped. {how}")
            raise
        if is_first_process():
            self.remove()


def describe(settings: Settings, digest: str, **source: Any) -> dict[str, str]:
    """What must not change between two attempts, as text by name."""
    asked = {name: json.dumps(value) for name, value in settings.as_data().items()}
    asked |= {name: str(value) for name, value in source.items()}
    return {**asked, "input_sha256": digest, **{name: version(name) for name in _VERSIONS}}


# ---------------------------------------------------------------------------- place


def place(
    run: Run | str | Path,
    query: io.Source | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Place the cells of a file in the tissue of a run, and write them.

    The reference are the run's training spots; its validation spots, on which no gradient was computed,
    calibrate the regions; its held-out spots are not used, so that they can be the query.

    Parameters
    ----------
    run
        A run, or its folder.
    query
        Raw counts, with or without positions, in whatever :func:`isovi.data.io.read` takes; never changed.
    out
        File to write, ``.h5ad`` or ``.zarr``: the query with ``obsm["X_placed"]``, and in ``obs``
        ``"placed_radius_90"``, ``"placed_flag"`` and ``"placed_section"``.
    seed
        Random seed.
    force
        Replace the file.
    progress
        Receives what is reported; nothing is shown by default.

    Returns
    -------
    ``n_cells``, ``n_flagged``, ``n_missing_genes``, ``shift``, ``median_radius``, and where the query has
    positions ``n_reference``, its cells that the model was trained or calibrated on (``None`` if that is not
    known), and ``errors`` of the others by section.

    Raises
    ------
    InputError
        If the run or the query cannot be used.
    OutputError
        If the file cannot be written.
    """
    progress, out = progress or Progress(), Path(out)
    require_seed(seed)
    if out.exists() and not force:
        raise OutputError(f'"{out}" exists.', "Files are not overwritten unless asked.", "Pass force=True.")
    run = run if isinstance(run, Run) else Run.read(run)
    cells = io.read(io.Source.of(query))
    check_query(cells, run)
    cells = with_single_precision(cells, run.settings.layer, progress)
    usable = reference_spots(run, progress)
    reference, calibration = run.model_data()[usable].copy(), run.split[usable] == VALIDATION
    placer = tl.SpatialPlacer(run.model, seed=seed).fit(reference, calibration=calibration)
    placed = placer.place(cells)
    cells.obsm[PLACED_KEY] = placed.positions
    cells.obs[RADIUS_KEY], cells.obs[FLAG_KEY] = placed.radius, placed.flagged
    cells.obs[SECTION_KEY] = pd.Categorical(placed.section.astype(str))
    metrics = placement_metrics(cells, placed, run, training_split(run.model, cells))
    io.write_atomic(cells, out, force=force)
    report_placement(metrics, placed, progress)
    progress.say(f"Wrote {out}")
    return metrics


def check_query(cells: AnnData, run: Run) -> None:
    """Refuse a query that cannot be placed, before the model is loaded."""
    check.size(cells)
    check.names(cells)
    check.genes_in_common(cells.var_names, run.adata.var_names[run.adata.var[GENE_KEY].to_numpy(dtype=bool)])
    check.counts(cells, run.settings.layer, allow_empty_genes=True)
    if run.settings.spatial_key in cells.obsm:
        check.numeric_positions(cells, run.settings.spatial_key)


def reference_spots(run: Run, progress: Progress) -> np.ndarray:
    """Mask of the spots that cells are placed among: those that were not held out, of large enough sections.

    Raises
    ------
    InputError
        If no section has enough of them.
    """
    usable, spots = run.split != HELDOUT, run.spots
    sizes = np.bincount(spots.section[usable], minlength=len(spots.sections))
    small = sizes < check.MIN_SECTION_SPOTS
    if small.all():
        raise InputError(
            f"Of {len(sizes)} sections none has more than {sizes.max()} spots that were not held out.",
            f"Cells are placed among at least {check.MIN_SECTION_SPOTS} spots of a section.",
            "Fit again with fewer spots held out, or with another section_key.",
        )
    if small.any():
        progress.say(
            f"{small.sum()} of {len(sizes)} sections are left out: fewer than {check.MIN_SECTION_SPOTS} of "
            "their spots were not held out"
        )
    return usable & ~small[spots.section]


def placement_metrics(cells: AnnData, placed: tl.PlacedCells, run: Run, split: np.ndarray) -> dict[str, Any]:
    """Numbers of cells and genes, and errors of each section's cells where the query has positions.

    Errors are over cells that are not of the reference, as far as ``split`` tells.
    """
    metrics: dict[str, Any] = {
        "n_cells": cells.n_obs,
        "n_flagged": int(placed.flagged.sum()),
        "n_missing_genes": len(placed.missing),
        "shift": placed.shift,
        "median_radius": float(np.median(placed.radius)),
    }
    if run.settings.spatial_key not in cells.obsm:
        return metrics
    truth = check.numeric_positions(cells, run.settings.spatial_key)
    known, seen = np.isfinite(truth).all(axis=1), np.isin(split, (TRAIN, VALIDATION))
    metrics |= {"n_without_position": int((~known).sum()), "errors": {}}
    metrics["n_reference"] = None if (split == "").all() else int(seen.sum())
    for name, unit in run.spots.units.items():
        of = (placed.section == name) & known & ~seen
        if of.sum() >= 3 and truth.shape[1] == placed.positions.shape[1]:
            metrics["errors"][name] = tl.placement_error(
                placed.positions[of], truth[of], radius=placed.radius[of], unit=unit
            )
    return metrics


def report_placement(metrics: dict[str, Any], placed: tl.PlacedCells, progress: Progress) -> None:
    """Say how many cells were placed, and what is missing."""
    progress.say(
        f"Placed {metrics['n_cells']} cells; {metrics['n_flagged']} are unlike the reference, "
        f"{metrics['n_missing_genes']} of the model's genes are missing; median 90 % radius "
        f"{metrics['median_radius']:.4g} in the units of the positions"
    )
    if placed.missing:
        listed = ", ".join(placed.missing[:10])
        progress.say(f"Missing: {listed}{', ...' if len(placed.missing) > 10 else ''}")
    if n := metrics.get("n_without_position"):
        progress.say(f"{n} cells of the query have no finite position; errors are over the others")
    if n := metrics.get("n_reference", 0):
        others = "errors are over the others" if metrics["errors"] else "no errors are reported"
        progress.say(
            f"The model was trained or calibrated on {n} of the {metrics['n_cells']} cells; {others}"
        )
    if "errors" in metrics and n is None:
        progress.say(
            "It is not known whether the model was trained on some of these cells: their errors are too small"
        )
