"""Files in, folders out: what ``isovi fit`` and ``isovi place`` do around the functions on AnnData."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi import pl, tl
from isovi.data import check, io, pack
from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.spatialdata import require_known_sections
from isovi.data.usable import prepared, usable, with_raw, with_whole_counts
from isovi.errors import InputError, IsoviError, OutputError, noted
from isovi.model.checkpoint import EpochCheckpoint, read_about, temporary_of
from isovi.model.distributed import is_first_process
from isovi.pipeline import content_hash, run_pipeline
from isovi.pl._data import shepard_pairs
from isovi.progress import Progress, Silent
from isovi.run import GENE_KEY, LATENT_KEY, Provenance, Run, Settings
from isovi.spots import HELDOUT, VALIDATION

PLACED_KEY = "X_placed"  # in obsm
RADIUS_KEY, FLAG_KEY, SECTION_KEY = "placed_radius_90", "placed_flag", "placed_section"  # in obs
CONTENT = "content_sha256"  # hash of what a fit reads, in the checkpoint
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
    provenance = attempt.provenance(source, call)
    with attempt.kept(progress), _output(out, force, first) as folder:
        with noted() as notes:
            adata = read(source, settings, min_counts, progress)
        provenance = replace(provenance, notes=tuple(notes))
        checkpoint = EpochCheckpoint(
            attempt.checkpoint, attempt.about | attempt.require_same(adata, settings)
        )
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
        chosen = {"min_counts": min_counts, "round_counts": settings.round_counts}
        given = {**source.options, **{name: value for name, value in chosen.items() if value}}
        if given:
            name, value = next(iter(given.items()))
            raise InputError(
                f'{name}={value} was given with "{source.path}", which is packed.',
                "What is read was chosen when it was packed.",
                "Leave it out, or give it to isovi pack.",
            )
        adata, how = pack.open_packed(source.path), "Opened"
        taken = usable(adata, layer=settings.layer, keep_controls=settings.keep_controls)
        taken.say()
        if not taken.spots.all():  # a store of an earlier version
            raise InputError(
                f'"{source.path}" has {int((~taken.spots).sum())} spots that are left out elsewhere.',
                "What is read was chosen when it was packed.",
                "Pack the input again.",
            )
    else:
        adata, how = io.read(source, keep_controls=True), "Read"
        if not adata.obsm:
            raise InputError(
                f'"{source.path}" has no positions.',
                "The position of every spot is needed.",
                "Pass coordinates=FILE, a table with the names of the spots and columns x and y.",
            )
        adata = drop_cells(prepared(adata, **settings.reading), min_counts, settings.layer)
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
        content = before.pop(CONTENT, None)
        changed = {
            name: (before.get(name), self.about.get(name))
            for name in sorted({*before, *self.about})
            if before.get(name) != self.about.get(name)
        }
        if list(changed) == ["input_sha256"] and content is not None:
            progress.say("The input is another file: training is resumed if what is read of it is the same")
        elif changed:
            raise self._another(changed)
        progress.say(f"Resuming from {self.checkpoint}")

    def require_same(self, adata: AnnData, settings: Settings) -> dict[str, str]:
        """The hash of what a fit reads, by its name in a checkpoint.

        Training may resume on another file than it began on, for example one that was mended, if what a fit
        reads of it is the same.

        Raises
        ------
        InputError
            If the unfinished attempt read something else.
        """
        content = {CONTENT: content_hash(adata, settings)}
        before = self.before() if self.checkpoint.exists() else content
        if before.get(CONTENT, content[CONTENT]) != content[CONTENT]:
            raise self._another({"input_sha256": (before.get("input_sha256"), self.about["input_sha256"])})
        return content

    def _another(self, changed: Mapping[str, tuple[Any, Any]]) -> InputError:
        """The error for an unfinished attempt that something was different of: what it was, and is."""
        listed = "; ".join(f"{name} was {before}, is {now}" for name, (before, now) in changed.items())
        return InputError(
            f'The unfinished {self.what} in "{self.checkpoint}" is another one: {listed}.',
            "Only the same parameters, input and packages lead to the same result.",
            "Give what was given before, or start anew by force=True without resume=True.",
        )

    @contextmanager
    def kept(self, progress: Progress) -> Iterator[None]:
        """Remove what is kept once the block has done its work; say where it is if the block fails."""
        try:
            yield
        except BaseException as error:
            if self.checkpoint.exists() and not isinstance(error, IsoviError):
                progress.say(f"Stopped. Pass resume=True to resume the {self.what} from {self.checkpoint}")
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
    layer: str | None = None,
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
    layer
        Layer of the query with its raw counts; that of the run by default, or ``X`` where the query has no
        such layer.
    seed
        Random seed.
    force
        Replace the file.
    progress
        Receives what is reported; nothing is shown by default.

    Returns
    -------
    ``n_cells``, ``n_flagged``, ``n_missing_genes``, ``shift``, ``median_radius``, and ``errors`` by section
    where the query has positions.

    Raises
    ------
    InputError
        If the run or the query cannot be used.
    OutputError
        If the file cannot be written.
    """
    progress, out = progress or Progress(), Path(out)
    if out.exists() and not force:
        raise OutputError(f'"{out}" exists.', "Files are not overwritten unless asked.", "Pass force=True.")
    run = run if isinstance(run, Run) else Run.read(run)
    cells = io.read(io.Source.of(query), keep_controls=run.settings.keep_controls)
    counted = counts_for(cells, run.settings, layer, progress)
    check_query(counted, run)
    reference = run.model_data()[run.split != HELDOUT].copy()
    calibration = run.split[run.split != HELDOUT] == VALIDATION
    placer = tl.SpatialPlacer(run.model, seed=seed).fit(reference, calibration=calibration)
    placed = placer.place(counted)
    cells.obsm[PLACED_KEY] = placed.positions
    cells.obs[RADIUS_KEY], cells.obs[FLAG_KEY] = placed.radius, placed.flagged
    cells.obs[SECTION_KEY] = pd.Categorical(placed.section.astype(str))
    metrics = placement_metrics(cells, placed, run)
    io.write_atomic(cells, out, force=force)
    report_placement(metrics, placed, progress)
    progress.say(f"Wrote {out}")
    return metrics


def counts_for(cells: AnnData, settings: Settings, layer: str | None, progress: Progress) -> AnnData:
    """Cells of a query with their counts where the model reads them.

    Raises
    ------
    InputError
        If the query has no such layer.
    """
    own = settings.layer if layer is None else layer
    cells = with_raw(cells, own)
    if layer is None and own is not None and own not in cells.layers:
        progress.say(f'The query has no layer "{own}", of which the run is: its counts are read from X')
        own = None
    if own is not None and own not in cells.layers:
        raise InputError(
            f'The query has no layer "{own}"; it has: {", ".join(filter(None, cells.layers)) or "none"}.',
            "The raw counts are read from that layer.",
            "Name one of these as `layer`, or leave it out if X holds the counts.",
        )
    cells = with_whole_counts(cells, own, round_counts=settings.round_counts)
    counts = cells.X if own is None else cells.layers[own]
    layers = {} if settings.layer is None else {settings.layer: counts}
    return AnnData(counts, obs=cells.obs, var=cells.var, layers=layers, obsm=dict(cells.obsm))


def check_query(cells: AnnData, run: Run) -> None:
    """Refuse a query that cannot be placed, before the model is loaded."""
    check.size(cells)
    check.names(cells)
    check.genes_in_common(cells.var_names, run.adata.var_names[run.adata.var[GENE_KEY].to_numpy(dtype=bool)])
    check.counts(cells, run.settings.layer, allow_empty_genes=True)
    if run.settings.spatial_key in cells.obsm:
        check.numeric_positions(cells, run.settings.spatial_key)


def placement_metrics(cells: AnnData, placed: tl.PlacedCells, run: Run) -> dict[str, Any]:
    """Numbers of cells and genes, and errors of each section's cells where the query has positions."""
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
    known = np.isfinite(truth).all(axis=1)
    metrics |= {"n_without_position": int((~known).sum()), "errors": {}}
    for name, unit in run.spots.units.items():
        of = (placed.section == name) & known
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
