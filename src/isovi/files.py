"""Files in, folders out: what ``isovi fit`` and ``isovi place`` do around the functions on AnnData."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi import tl
from isovi.data import check, io, pack
from isovi.data.fingerprint import training_split
from isovi.data.readers.spatialdata import require_known_sections
from isovi.data.usable import enough, has_empty_z, prepared, usable, with_raw, with_whole_counts
from isovi.data.writable import require_own_names, say_replaced, writable
from isovi.diagnose import as_warning, draw
from isovi.errors import InputError, IsoviWarning, OutputError, noted, require_seed
from isovi.interrupts import Interrupted, kept_at
from isovi.model.checkpoint import EpochCheckpoint, read_about, temporary_of
from isovi.model.distributed import is_first_process
from isovi.pipeline import complete, content_hash, run_pipeline
from isovi.progress import Progress, Silent
from isovi.run import CHECKPOINT, GENE_KEY, LEGACY, Provenance, Run, Settings
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, VALIDATION
from isovi.tl.place import some_of_each

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
        Folder to write. It appears with model and latent representation when training ends; domains, metrics
        and plots are added, and if one of them fails the rest is kept, with a warning and how to try again.
    settings
        Settings of the fit.
    min_counts
        Spots with fewer counts are left out.
    force
        Replace an earlier run in ``out``, if nothing but files of isoVI is in it.
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
        If the folder cannot be written, contains the input or is inside of it, or another process writes it;
        before any training.

    Warns
    -----
    IsoviWarning
        If domains, metrics or a plot cannot be made.
    """
    io.output_path(out)
    source, out, progress = io.Source.of(source), Path(out).expanduser(), progress or Progress()
    first = is_first_process()
    progress = progress if first else Silent()
    _require_not_negative(min_counts)
    with io.exclusive(out, [source.path, source.coordinates]) if first else nullcontext():
        attempt, sha256 = Attempt.of(out), io.digest(source)
        about = describe(settings, sha256, min_counts=min_counts, **source.options)
        earlier = attempt.found(about) if resume and not force else None
        if earlier is not None and earlier.is_complete:
            progress.say(f"{out} is finished: there is nothing to resume")
            if first:
                draw(earlier, out / "figures")  # which may lack some if the fit was killed
            return earlier if first else None
        attempt.begin(about, resume=resume, force=force, progress=progress)
        force = force or earlier is not None
        io.require_replaceable(out, force)
        if earlier is not None and not attempt.checkpoint.exists() and earlier.adata.X is not None:
            complete(earlier)  # its training had ended
            return _finish(attempt, earlier, out, progress) if first else None

        def keep(run: Run) -> None:
            with io.output_directory(out, force) as folder:
                run.write_into(folder)
            run.folder = out

        with attempt.kept(progress):
            with noted() as notes:
                adata = read(source, settings, min_counts, progress)
            adata, converted = as_written(adata, settings, progress)
            io.require_room(out, io.stored_bytes(adata))
            content = content_hash(adata, settings)
            attempt.require_same(content, sha256)
            checkpoint = EpochCheckpoint(attempt.checkpoint, {**about, CONTENT: content})
            asked = source_of(source, min_counts)
            provenance = Provenance(sha256=sha256, source=asked, call=call, notes=(*notes, *converted))
            scratch = io.scratch_directory(out) if pack.is_on_disk(adata.X) else None
            kept: dict[str, Any] = {"keep": keep, "checkpoint": checkpoint, "scratch": scratch}
            run = run_pipeline(adata, settings, progress, provenance, **kept)
            return None if run is None else _finish(attempt, run, out, progress)


def _finish(attempt: Attempt, run: Run, out: Path, progress: Progress) -> Run:
    """Add what was made of a trained run to its folder; what fails is left out, with a warning."""
    if (out / "model").exists():  # before the run is complete: a complete one has no checkpoint beside it
        attempt.remove()
    with kept_at(f"The trained run is in {out}: {run.retry} makes what is missing"):
        with as_warning(f"Domains and metrics were not written to {out}", run):
            run.rewrite()
        draw(run, out / "figures")
    progress.say(f"Wrote {out}")
    return run


def as_written(adata: AnnData, settings: Settings, progress: Progress) -> tuple[AnnData, tuple[str, ...]]:
    """The data as it can be written, and notes on what is converted, which are reported.

    Raises
    ------
    InputError
        If a setting names a column or key that has to be written under another name.
    """
    found = writable(adata)
    keys: dict[str, tuple[str, str | None]] = {
        "spatial_key": ("obsm", settings.spatial_key),
        "layer": ("layers", settings.layer),
        **{name: ("obs", getattr(settings, name)) for name in ("section_key", "batch_key", "label_key")},
    }
    require_own_names(found, keys)
    for note in found.notes:
        progress.say(f"Note: {note}")
    return found.adata, found.notes


def _require_not_negative(min_counts: int) -> None:
    if min_counts < 0:
        raise InputError(
            f"min_counts={min_counts} was given.", "It must be at least 0.", "Give another number."
        )


def read(source: io.Source, settings: Settings, min_counts: int, progress: Progress) -> AnnData:
    """Read the input into memory without the spots of few counts, or open a packed store.

    Raises
    ------
    InputError
        If it cannot be read, has no positions, or options are given that packing has decided.
    """
    if pack.is_packed(source.path):
        adata, how = _open_packed(source, settings, min_counts), "Opened"
    else:
        adata, how = io.read(source, keep_controls=True), "Read"
        if not adata.obsm:
            raise InputError(
                f'"{source.path}" has no positions.',
                "The position of every spot is needed.",
                "Pass coordinates=FILE, a table with the names of the spots and columns x and y.",
            )
        adata = prepared(adata, min_counts=min_counts, **settings.reading)
    if settings.section_key is None:
        require_known_sections(adata)
    progress.say(f"{how} {adata.n_obs} spots x {adata.n_vars} genes from {source.path}")
    return adata


def _open_packed(source: io.Source, settings: Settings, min_counts: int) -> AnnData:
    """A packed store, of which nothing is left out any more."""
    chosen = {"min_counts": min_counts, "round_counts": settings.round_counts}
    given = {**source.options, **{name: value for name, value in chosen.items() if value}}
    if given:
        name, value = next(iter(given.items()))
        raise InputError(
            f'{name}={value} was given with "{source.path}", which is packed.',
            "What is read was chosen when it was packed.",
            "Leave it out, or give it to isovi pack.",
        )
    adata = pack.open_packed(source.path)
    taken = usable(adata, layer=settings.layer, keep_controls=settings.keep_controls)
    taken.say()
    if not taken.spots.all():  # a store of an earlier version
        raise InputError(
            f'"{source.path}" has {int((~taken.spots).sum())} spots that are left out elsewhere.',
            "What is read was chosen when it was packed.",
            "Pack the input again.",
        )
    return adata


# ---------------------------------------------------------------------------- resuming

AnAttempt = TypeVar("AnAttempt", bound="Attempt")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a fit to a folder, which may resume an earlier one.

    Attributes
    ----------
    out
        Folder of the results.
    checkpoint
        Beside it, where training is kept until the results are there.
    """

    what: ClassVar[str] = "run"
    suffix: ClassVar[str] = CHECKPOINT

    out: Path
    checkpoint: Path

    @classmethod
    def of(cls: type[AnAttempt], out: Path) -> AnAttempt:
        """The attempt to fill a folder."""
        final = io.output_path(out)
        return cls(final, io.beside(final, cls.suffix))

    def before(self) -> dict[str, str] | None:
        """What the unfinished attempt was about; ``None`` if it had not begun to say so."""
        return read_about(self.checkpoint)

    def remove(self) -> None:
        """Remove what is kept."""
        for path in (self.checkpoint, temporary_of(self.checkpoint)):
            path.unlink(missing_ok=True)

    def found(self, about: Mapping[str, str]) -> Run | None:
        """The run in the folder, if it is about the same, complete or not."""
        if not (self.out / io.RUN_FILE).is_file():
            return None
        run = Run.read(self.out)
        run.require_intact()
        source = {name: value for name, value in run.provenance.source.items() if name != "path"}
        source.setdefault("min_counts", 0)
        known = describe(run.settings, run.provenance.sha256, **source)
        known |= {name: run.provenance.versions.get(name, "") for name in _VERSIONS}
        return run if known == about else None

    def begin(self, about: Mapping[str, str], *, resume: bool, force: bool, progress: Progress) -> None:
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
            io.require_replaceable(self.out, force)
            self.remove()
            return
        if not self.checkpoint.exists():
            progress.say(f"There is no unfinished {self.what} to resume: starting from the beginning")
            return
        before = dict(about) if (found := self.before()) is None else found
        content = before.pop(CONTENT, None)
        both = {name: (before.get(name), about.get(name)) for name in sorted({*before, *about})}
        changed = {name: values for name, values in both.items() if values[0] != values[1]}
        if list(changed) == ["input_sha256"] and content is not None:
            progress.say("The input is another file: training is resumed if what is read of it is the same")
        elif changed:
            raise self._another(changed)
        progress.say(f"Resuming from {self.checkpoint}")

    def require_same(self, content: str, sha256: str) -> None:
        """Refuse to resume on other data: on what a fit reads, by its hash, or on the file, by its own.

        Training may resume on another file than it began on, for example one that was mended, if what a fit
        reads of it is the same.

        Raises
        ------
        InputError
            If the unfinished attempt read something else.
        """
        before = (self.before() if self.checkpoint.exists() else None) or {}
        if before.get(CONTENT, content) != content:
            raise self._another({"input_sha256": (before.get("input_sha256"), sha256)})

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
        """Say where the unfinished attempt is kept if the block fails."""
        try:
            yield
        except BaseException as error:
            if self.checkpoint.exists() and not isinstance(error, InputError):
                how = f"Pass resume=True to resume the {self.what} from {self.checkpoint}"
                error.add_note(how)  # which the command line shows of a signal
                if not isinstance(error, Interrupted):
                    progress.say(f"Stopped. {how}")
            raise


def source_of(source: io.Source, min_counts: int) -> dict[str, Any]:
    """What was read, as provenance has it."""
    few = {"min_counts": min_counts} if min_counts else {}
    return {"path": str(source.path), **source.options, **few}


def describe(settings: Settings, digest: str, **source: Any) -> dict[str, str]:
    """What must not change between two attempts, as text by name."""
    source.pop("coordinates", None)  # a path; its content is in the hash
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
    min_counts: int = 0,
    round_counts: bool = False,
    seed: int = 0,
    force: bool = False,
    trust: bool = False,
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
    min_counts
        Cells of the query with fewer counts are left out.
    round_counts
        Round counts of the query that were corrected for ambient RNA, or estimated; always done for a run
        that was made so.
    seed
        Random seed.
    force
        Replace the file, if it is an earlier placement.
    trust
        As for :meth:`isovi.Run.read`, of a folder.
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
        If the file cannot be written, is the query or part of a run, or exists and is not replaced.
    """
    progress, query = progress or Progress(), io.Source.of(query)
    require_seed(seed)
    _require_not_negative(min_counts)
    ours = f"obsm/{PLACED_KEY}"
    io.require_writable(out, force=force, ours=ours)
    with io.exclusive(out, [query.path, query.coordinates]):
        run = run if isinstance(run, Run) else Run.read(run, trust=trust)
        cells, _ = as_written(
            io.read(query, keep_controls=run.settings.keep_controls), run.settings, progress
        )
        say_replaced(cells, obs=(RADIUS_KEY, FLAG_KEY, SECTION_KEY), obsm=(PLACED_KEY,))
        io.require_room(out, io.stored_bytes(cells))
        counted = counts_for(cells, run.settings, layer, progress, round_counts)
        if min_counts > 0 and not (kept := enough(counted.X, min_counts)).all():
            cells, counted = cells[kept].copy(), counted[kept].copy()
        check_query(counted, run)
        placer = placer_of(run, seed, progress)
        placed = placer.place(counted)
        cells.obsm[PLACED_KEY] = placed.positions
        cells.obs[RADIUS_KEY], cells.obs[FLAG_KEY] = placed.radius, placed.flagged
        cells.obs[SECTION_KEY] = pd.Categorical(placed.section.astype(str))
        metrics = placement_metrics(cells, placed, run, training_split(placer.model, counted))
        io.write_atomic(cells, out, force=force, ours=ours)
    report_placement(metrics, placed, progress)
    progress.say(f"Wrote {out}")
    return metrics


def counts_for(
    cells: AnnData, settings: Settings, layer: str | None, progress: Progress, round_counts: bool
) -> AnnData:
    """Cells of a query with their counts where the model reads them.

    Raises
    ------
    InputError
        If the query has no such layer, or it holds no counts.
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
    cells = with_whole_counts(cells, own, round_counts=round_counts or settings.round_counts)
    check.counts(cells, own, allow_empty_genes=True, allow_empty_spots=True)  # names the query's own layers
    counts = cells.X if own is None else cells.layers[own]
    layers = {} if settings.layer is None else {settings.layer: counts}
    return AnnData(counts, obs=cells.obs, var=cells.var, layers=layers, obsm=dict(cells.obsm))


def check_query(cells: AnnData, run: Run) -> None:
    """Refuse a query that cannot be placed, before the model is loaded."""
    check.size(cells)
    check.names(cells)
    check.genes_in_common(cells.var_names, run.adata.var_names[run.adata.var[GENE_KEY].to_numpy(dtype=bool)])
    check.counts(cells, run.settings.layer, allow_empty_genes=True)


def reference_spots(run: Run, progress: Progress) -> np.ndarray:
    """Mask of the spots that cells are placed among: those that were not held out, of large enough sections.

    Raises
    ------
    InputError
        If no section has enough of them.
    """
    kept, spots = run.split != HELDOUT, run.spots
    sizes = np.bincount(spots.section[kept], minlength=len(spots.sections))
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
    return kept & ~small[spots.section]


def placer_of(run: Run, seed: int, progress: Progress) -> tl.SpatialPlacer:
    """A placer among the spots of a run; counts are read of no more spots than it uses.

    Raises
    ------
    InputError
        If no section has enough spots that were not held out.
    """
    kept = np.flatnonzero(reference_spots(run, progress))
    used = kept[some_of_each(run.spots.section[kept], run.split[kept] == VALIDATION, seed)]
    if len(used) == len(kept) or run.id == LEGACY:
        model, reference = run.model, run.model_data()[kept].copy()
    else:
        progress.say(f"Placing rests on {len(used)} random cells of the {len(kept)} of the reference")
        reference = run.model_data(np.isin(np.arange(len(run.split)), used))
        model = run.model if "model" in vars(run) else run.model_with(reference)
    calibration = (reference.obs[SPLIT_KEY] == VALIDATION).to_numpy()
    return tl.SpatialPlacer(model, seed=seed).fit(reference, calibration=calibration)


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
    try:
        truth = check.numeric_positions(cells, run.settings.spatial_key)
    except InputError as error:  # the cells are placed without them
        warnings.warn(f"Errors are not measured, for lack of positions: {error}", IsoviWarning, stacklevel=2)
        return metrics
    truth = truth[:, :2] if has_empty_z(truth) else truth
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
