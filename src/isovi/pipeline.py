"""The main job on AnnData: split, choose genes, train, encode, find domains, evaluate."""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from isovi import tl
from isovi.data import check, findings, pack
from isovi.data.genes import no_genes
from isovi.data.usable import prepared, shallow_copy, with_raw
from isovi.data.writable import say_replaced
from isovi.errors import InputError, IsoviWarning, noted
from isovi.geometry.certificate import CERTIFIED_EPSILON, cells_needed
from isovi.graph import AllPairs, PairKind
from isovi.model.checkpoint import EpochCheckpoint
from isovi.model.distributed import is_first_process
from isovi.model.hooks import exceptions_as_they_are
from isovi.model.objective import Constraint, Distortion
from isovi.model.training import Interruptible
from isovi.pl._data import groups
from isovi.progress import Progress, Silent, progress_of
from isovi.run import BACKBONES, DOMAIN_KEY, GENE_KEY, LATENT_KEY, PARTS, Provenance, Run, Settings
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, VALIDATION, Spots
from isovi.tl._inputs import FEW_GENES, IDENTITY_KEY
from isovi.tl.mixing import N_NEAREST
from isovi.verdict import Verdict, in_epochs, verdict

VALIDATION_SHARE = 0.1  # of the spots that are not held out
MIN_TRAIN = 10  # training spots
MIN_HELDOUT = 3  # held-out spots, if there are any
MIN_SPOTS = 5  # training spots in which a gene must be seen
GENE_SPOTS = 50_000  # training spots on which genes are chosen, at most
SEPARATE = 0.95  # share of a domain in one section or batch that is worth a warning
CHUNK_ENTRIES = 20_000_000  # entries of a dense chunk of genes
WHOLE = (
    f"Domains were found in the whole latent representation, since there are fewer than {FEW_GENES} genes; "
    f'isovi.tl.domains(adata, use_rep="{IDENTITY_KEY}") finds those of its identity part.'
)
UNMEASURED = "NaN or infinite, and null in metrics.json: "  # a note on metrics begins so


def fit(
    adata: AnnData,
    *,
    holdout: float | str = 0.1,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    keep_controls: bool = False,
    round_counts: bool = False,
    backbone: str = "scvi",
    distortion: Distortion | None = Constraint(),  # noqa: B008  # frozen, and the documented default
    pairs: PairKind = AllPairs(),  # noqa: B008  # likewise
    n_top_genes: int = 2000,
    n_latent: int = 10,
    max_epochs: int | None = None,
    seed: int = 0,
    devices: int = 1,
    nodes: int = 1,
    progress: Progress | bool = True,
) -> Run:
    """Fit a distance-preserving model, and measure on held-out spots how good it is.

    Spots are split; genes are chosen on training spots; the model is trained, and stopped early on validation
    spots; domains are found and metrics computed. ``isovi fit`` reads a file, calls this and writes the run.

    Parameters
    ----------
    adata
        Raw counts and positions. It is not changed: the run has data of its own, which shares the counts.
    holdout
        Share of spots to hold out, between 0 and 0.9, or ``"section:NAME"`` for a whole section. Held-out
        spots take no part in training, in stopping it, or in the choice of genes.
    spatial_key
        Key in ``obsm`` of the positions, shape ``(n_obs, 2)`` or ``(n_obs, 3)``. Cells whose position is NaN
        or infinite are left out, and a warning says how many.
    section_key, batch_key, label_key
        Columns of ``obs`` with the tissue section, the batch, and labels to compare domains with.
    layer
        Layer of the raw counts; ``X`` by default. ``"raw"`` stands for ``adata.raw``, where no layer is
        called so.
    keep_controls
        Keep control probes, blanks and other features that are no genes among the genes. By default they are
        left out, as are spots whose ``obs["in_tissue"]`` is 0; a warning says how many.
    round_counts
        Round counts that were corrected for ambient RNA, or estimated, to whole numbers.
    backbone
        ``"scvi"`` for :class:`~isovi.IsoSCVI`, ``"vae"`` for :class:`~isovi.IsoVAE`.
    distortion
        :class:`~isovi.Constraint` or :class:`~isovi.Penalty`; ``None`` for the backbone itself.
    pairs
        Pairs whose distances count; see :mod:`isovi.graph`.
    n_top_genes
        Number of highly variable genes; 0 for all.
    n_latent, max_epochs
        Number of latent dimensions, and largest number of epochs, by default scvi-tools' heuristic.
    seed
        Random seed of split, training and metrics. Global random states are left as they were.
    devices, nodes
        Devices (GPUs, or processes without any) of each machine, and machines, that train together.
    progress
        Whether to show progress, or what receives it; see :class:`isovi.progress.Progress`.

    Returns
    -------
    The run: ``run.adata`` with ``obsm["X_isovi"]`` and its parts ``obsm["X_isovi_place"]`` and
    ``obsm["X_isovi_identity"]``, ``obs["isovi_domain"]``, ``obs["isovi_split"]`` and
    ``var["isovi_gene"]``; ``run.model``; ``run.metrics``; ``run.write(folder)``.

    Raises
    ------
    InputError
        If the data or a parameter cannot be used; before any training.

    Examples
    --------
    >>> import isovi
    >>> from isovi.simulate import simulate
    >>> adata = simulate("layers", n_obs=100, n_genes=30, seed=0)
    >>> run = isovi.fit(adata, holdout=0.25, max_epochs=2, progress=False)
    >>> run.adata.obsm["X_isovi"].shape
    (100, 10)
    """
    settings = Settings(
        holdout=holdout, spatial_key=spatial_key, section_key=section_key, batch_key=batch_key,
        label_key=label_key, layer=layer, keep_controls=keep_controls, round_counts=round_counts,
        backbone=backbone, distortion=distortion, pairs=pairs, n_top_genes=n_top_genes, n_latent=n_latent,
        max_epochs=max_epochs, seed=seed, devices=devices, nodes=nodes,
    )  # fmt: skip
    call = ", ".join(["adata", *(f"{name}={value!r}" for name, value in settings.changed().items())])
    with noted() as notes:
        used = prepared(adata, **settings.reading)
    sha256 = content_hash(adata, settings)
    provenance = Provenance(sha256=sha256, call=f"isovi.fit({call})", notes=tuple(notes))
    run = run_pipeline(used, settings, progress_of(progress), provenance)
    if run is None:  # a process that only trains along has done its work
        sys.exit(0)
    return run


def run_pipeline(
    adata: AnnData,
    settings: Settings,
    progress: Progress,
    provenance: Provenance,
    *,
    checkpoint: EpochCheckpoint | None = None,
    scratch: tempfile.TemporaryDirectory[str] | None = None,
    keep: Callable[[Run], None] | None = None,
) -> Run | None:
    """Fit with these settings; the steps of :func:`fit`.

    Parameters
    ----------
    adata
        Data in memory, or opened from a packed store. It is not changed.
    settings, progress
        What to do, and where it is reported.
    provenance
        Of the data; time and memory are added.
    checkpoint
        Keeps the training, and resumes from a file that exists.
    scratch
        Folder for temporary files of packed data, which the run keeps; the system's default if not given.
    keep
        Called with the run as soon as it is trained: it has model and latent representation, and neither
        domains nor metrics yet.

    Returns
    -------
    The run; ``None`` in processes other than the first.

    Warns
    -----
    IsoviWarning
        If domains or metrics cannot be made; the run is returned without them.
    """
    started = time.perf_counter()
    with noted() as notes:
        check_data(adata, settings)
        say_replaced(adata, obs=(DOMAIN_KEY, SPLIT_KEY), obsm=(LATENT_KEY, *PARTS), var=(GENE_KEY,))
    provenance = replace(provenance, notes=(*provenance.notes, *notes))
    spots = split(adata, settings)
    with isolated_random_state(settings.seed):
        genes = choose_genes(adata, spots, settings)
        require_counts(adata, genes, settings)
        report_split(spots, genes, progress)
        if scratch is None and pack.is_on_disk(adata.X):
            scratch = tempfile.TemporaryDirectory(prefix="isovi-")
        used = pack.take_genes(adata, genes, Path(scratch.name if scratch else "") / "genes.zarr")
        model = train(used, spots, settings, progress, checkpoint)
        if not is_first_process():
            return None
        run = Run.of(
            annotate(adata, model.get_latent_representation(used), genes, spots, settings.distortion),
            model,
            settings=settings,
            metrics=describe(model, spots, settings),
            provenance=measured(provenance, started),
            history=pd.concat([t for t in model.history_.values() if t.index.name == "epoch"], axis=1),
            training=outcome_of(model),
            scratch=scratch,
        )
    run.spots = spots
    if keep is not None:
        keep(run)
    complete(run, used)
    run.provenance = measured(run.provenance, started)
    if run.is_complete:
        report_metrics(run, progress)
    return run


def measured(provenance: Provenance, started: float) -> Provenance:
    """The provenance with time and memory so far."""
    seconds = round(time.perf_counter() - started, 2)
    return replace(provenance, seconds=seconds, peak_memory_mb=peak_memory())


# ---------------------------------------------------------------------------- data


def check_data(adata: AnnData, settings: Settings) -> None:
    """Check all that is used of the data, once.

    Raises
    ------
    InputError
        For the first thing that cannot be used, or if there are sections that were not declared.

    Warns
    -----
    IsoviWarning
        Of whatever else ``isovi.data.findings`` finds.
    """
    check.dataset(
        adata,
        **settings.keys,
        batch_key=settings.batch_key,
        label_key=settings.label_key,
        layer=settings.layer,
        allow_empty_genes=True,  # genes that training spots lack are dropped
    )
    findings.require(findings.find_in(adata, **settings.keys))
    for name in ("section_key", "batch_key", "label_key"):
        if (key := getattr(settings, name)) in (DOMAIN_KEY, SPLIT_KEY):
            raise InputError(
                f'{name}="{key}" was given.',
                f'obs["{key}"] of the result holds what this fit makes.',
                f'Give the column another name: adata.obs["before"] = adata.obs.pop("{key}").',
            )


def content_hash(adata: AnnData, settings: Settings) -> str:
    """SHA-256 of what a fit reads of an AnnData: names, counts, positions and the columns of ``obs``."""
    keys = (settings.section_key, settings.batch_key, settings.label_key)
    columns = [key for key in keys if key is not None and key in adata.obs]
    counts = check.counts_of(with_raw(adata, settings.layer), settings.layer)
    found = hashlib.sha256(f"{adata.shape}".encode())
    for part in (adata.obs_names, adata.var_names, *(adata.obs[key].astype(str) for key in columns)):
        found.update(pd.util.hash_array(np.asarray(part, dtype=object)).tobytes())
    if settings.spatial_key in adata.obsm:
        found.update(np.ascontiguousarray(adata.obsm[settings.spatial_key]).tobytes())
    for block in () if counts is None else check.blocks(counts):
        rows = sparse.csr_matrix(block.values)
        for part in (rows.indptr, rows.indices, rows.data):
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def split(adata: AnnData, settings: Settings) -> Spots:
    """Where the spots are, and which are held out.

    The split is drawn in the order of the input, so that packed data, which has another, is split alike. Of
    the spots that are not held out a tenth are for validation, which stops the training.

    Raises
    ------
    InputError
        If there is no such section, too few spots are left to train on, or a batch is held out whole.
    """
    spots = check.spots(adata, **settings.keys)
    n_obs, rng, order = adata.n_obs, np.random.default_rng(settings.seed), np.argsort(pack.input_order(adata))
    drawn = order[rng.permutation(n_obs)]
    if isinstance(settings.holdout, str):
        heldout = section_mask(spots, settings)
        rest = drawn[~heldout[drawn]]
    else:
        n_heldout = round(settings.holdout * n_obs)
        heldout, rest = drawn[:n_heldout], drawn[n_heldout:]
    parts = np.full(n_obs, TRAIN, dtype="<U10")
    parts[heldout] = HELDOUT
    parts[rest[: round(VALIDATION_SHARE * len(rest))]] = VALIDATION
    spots = replace(spots, split=parts)
    require_training(adata, spots, settings)
    return spots


def section_mask(spots: Spots, settings: Settings) -> np.ndarray:
    """Mask of the spots of the section that is held out."""
    name = str(settings.holdout).partition(":")[2]
    if settings.section_key is None or name not in spots.sections:
        known = ", ".join(spots.sections) if settings.section_key else "unknown, as section_key is not given"
        raise InputError(
            f'holdout="section:{name}" was given.',
            f"The sections are {known}.",
            "Name one of the sections, and the column of obs that has them as section_key.",
        )
    mask = spots.section == spots.sections.index(name)
    if mask.all():
        raise InputError(
            f'holdout="section:{name}" holds out every spot.',
            "At least one section must remain to train on.",
            "Hold out a share of spots instead, such as holdout=0.25.",
        )
    return mask


def require_training(adata: AnnData, spots: Spots, settings: Settings) -> None:
    """Refuse a split that leaves too little to train on, or a held-out batch that training never sees."""
    train = spots.split == TRAIN
    if train.sum() < MIN_TRAIN:
        raise InputError(
            f"{train.sum()} of {len(spots)} spots are left for training.",
            f"At least {MIN_TRAIN} are needed.",
            "Hold out fewer spots.",
        )
    heldout = len(spots.rows(HELDOUT))
    if 0 < heldout < MIN_HELDOUT:
        raise InputError(
            f"{heldout} of {len(spots)} spots are held out.",
            f"Metrics on held-out spots need at least {MIN_HELDOUT}.",
            "Hold out more spots, or none with holdout=0.",
        )
    if settings.batch_key is None:
        return
    batches = adata.obs[settings.batch_key].astype(str).to_numpy()
    unseen = sorted(set(batches) - set(batches[train]))
    if unseen:
        sizes = ", ".join(f"{name} ({int((batches == name).sum())} spots)" for name in unseen)
        share = "Leave these spots out, merge the batch with another, or choose another seed."
        whole = "Hold out a share of spots instead, or leave batch_key out."
        raise InputError(
            f"No training spot is of batch {sizes} in obs[{settings.batch_key!r}]: all are held out or for "
            "validation.",
            "The decoder cannot predict a batch that it never saw.",
            whole if isinstance(settings.holdout, str) else share,
        )


# ---------------------------------------------------------------------------- genes


def choose_genes(adata: AnnData, spots: Spots, settings: Settings) -> np.ndarray:
    """Highly variable genes of the training spots, of 50,000 of them if there are more.

    Controls are no genes, and genes seen in fewer than five of these spots are dropped; of the rest those
    with the largest variance of Pearson residuals are kept (Lause, Berens & Kobak 2021, through scanpy).

    Returns
    -------
    Mask over ``adata.var``, shape ``(gene,)``.

    Raises
    ------
    InputError
        If no gene is seen often enough, or training spots are alike.
    """
    matrix = check.counts_of(adata, settings.layer)
    counts = gene_counts(adata, matrix, spots, np.random.default_rng(settings.seed))
    seen = np.asarray((counts > 0).sum(axis=0)).ravel() >= MIN_SPOTS
    if not settings.keep_controls:  # a packed store of an earlier version may have them
        seen &= ~no_genes(adata.var)
    if not seen.any():
        raise InputError(
            f"No gene is seen in {MIN_SPOTS} of the {len(spots.rows(TRAIN))} training spots.",
            "The model needs genes that occur.",
            "Check that the counts are in the right layer, or hold out fewer spots.",
        )
    genes = seen.copy()
    if 0 < settings.n_top_genes < seen.sum():
        genes[seen] = most_variable(counts[:, np.flatnonzero(seen)], settings.n_top_genes)
    require_differences(counts[:, np.flatnonzero(genes)], settings)
    return genes


def require_counts(adata: AnnData, genes: np.ndarray, settings: Settings) -> None:
    """Refuse genes, a mask, of which a spot has no count."""
    matrix = check.counts_of(adata, settings.layer)
    empty = check.cell_totals(matrix, genes) == 0
    if n := int(empty.sum()):
        most = int(check.cell_totals(matrix)[empty].max())
        by_scanpy = f"sc.pp.filter_cells(adata, min_counts={most + 1}), or " if settings.layer is None else ""
        raise InputError(
            f"{n} {'spot has' if n == 1 else 'spots have'} no count in the {int(genes.sum())} genes chosen.",
            f"Every spot needs a count. In all genes {'it has' if n == 1 else 'they have'} at most {most}.",
            f"Raise `n_top_genes`, or leave out spots of so few counts: {by_scanpy}min_counts={most + 1}.",
        )


def gene_counts(adata: AnnData, matrix: Any, spots: Spots, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of the training spots that genes are chosen on, in the order of the input."""
    order = pack.input_order(adata)
    ranks = np.sort(order[spots.rows(TRAIN)])
    ranks = np.sort(rng.choice(ranks, min(GENE_SPOTS, len(ranks)), replace=False))
    rows = np.argsort(order)[ranks]
    ascending = np.argsort(rows)
    return pack.take_rows(matrix, rows[ascending])[np.argsort(ascending)]


def most_variable(counts: sparse.csr_matrix, n_top_genes: int) -> np.ndarray:
    """Mask of the genes with the largest variance of Pearson residuals."""
    filled = AnnData(sparse.csr_matrix(counts))
    filled = filled[np.asarray(filled.X.sum(axis=1)).ravel() > 0].copy()
    sc.experimental.pp.highly_variable_genes(
        filled,
        flavor="pearson_residuals",
        n_top_genes=n_top_genes,
        chunksize=max(CHUNK_ENTRIES // filled.n_obs, 1),
        check_values=False,
    )
    return filled.var["highly_variable"].to_numpy()


def require_differences(counts: sparse.csr_matrix, settings: Settings) -> None:
    """Refuse training spots whose counts, shape ``(cell, gene)``, are all alike to the encoder."""
    what = "counts"
    if settings.backbone == "vae":  # which sees shares of the total
        totals = np.maximum(np.asarray(counts.sum(axis=1), dtype=np.float64), 1)
        counts, what = sparse.csr_matrix(counts.multiply(1 / totals)), "shares of counts"
    least, most = (found.toarray().astype(np.float64) for found in (counts.min(axis=0), counts.max(axis=0)))
    n_spots, n_genes = counts.shape
    if n_spots > 1 and (most - least <= 1e-9 * most).all():
        raise InputError(
            f"All {n_spots} training spots have the same {what} of the {n_genes} genes chosen.",
            "A latent representation needs spots that differ in expression.",
            "Check that the counts are in the right layer, and that n_top_genes is large enough.",
        )


def report_split(spots: Spots, genes: np.ndarray, progress: Progress) -> None:
    """Say how spots were split, and on how many of them genes were chosen."""
    parts = ", ".join(f"{len(spots.rows(part))} {part}" for part in (TRAIN, VALIDATION, HELDOUT))
    n_train = len(spots.rows(TRAIN))
    on = f"{GENE_SPOTS} of the" if n_train > GENE_SPOTS else "the"
    progress.say(f"Split into {parts} spots; {int(genes.sum())} genes chosen on {on} training spots")


# ---------------------------------------------------------------------------- training


class _Epochs(Callback):
    """Passes epochs on to a progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Pass on what was logged last."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.progress.epoch(trainer.current_epoch + 1, trainer.max_epochs, metrics)

    def on_train_end(self, *_: Any) -> None:
        """Training has ended."""
        self.progress.close()

    def on_exception(self, *_: Any) -> None:
        """Training was interrupted."""
        self.progress.close()


def train(
    used: AnnData,
    spots: Spots,
    settings: Settings,
    progress: Progress,
    checkpoint: EpochCheckpoint | None = None,
) -> Any:
    """Set up the model with all spots, and train it on those that are not held out.

    The held-out spots are the test set of scvi-tools: they are in no minibatch, and the pair graph does not
    look at their positions. Counts are not checked again: :func:`check_data` has done it.
    """
    if not is_first_process():
        progress = Silent()
    parts = [spots.rows(part) for part in (TRAIN, VALIDATION, HELDOUT)]
    backbone, callbacks = BACKBONES[settings.backbone], [Interruptible(), _Epochs(progress)]
    several = {"devices": settings.devices, "num_nodes": settings.nodes}
    resume = checkpoint is not None and checkpoint.path.exists()
    with isolated_random_state(settings.seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IsoviWarning)  # said when the data was checked
            keys = {"layer": settings.layer, "batch_key": settings.batch_key, **settings.keys}
            backbone.setup_anndata(used, check_counts=False, **keys)
        model = backbone(
            used, distortion=settings.distortion, pairs=settings.pairs, n_latent=settings.n_latent
        )
        with exceptions_as_they_are():
            model.train(
                settings.max_epochs,
                early_stopping=len(parts[1]) > 0,
                datasplitter_kwargs={"external_indexing": parts},
                enable_progress_bar=False,
                callbacks=callbacks if checkpoint is None else [*callbacks, checkpoint],
                ckpt_path=checkpoint.path if checkpoint is not None and resume else None,
                **(several if settings.devices * settings.nodes > 1 else {}),
            )
    if is_first_process():  # which has the history
        progress.say(in_epochs(outcome_of(model)))
    return model


@contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the generators that scvi-tools and torch draw from, and put their states back afterwards."""
    python, mersenne = random.getstate(), np.random.get_state()  # noqa: NPY002  # other libraries' state
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # likewise
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(mersenne)  # noqa: NPY002  # likewise


# ---------------------------------------------------------------------------- results


def annotate(
    adata: AnnData, latent: np.ndarray, genes: np.ndarray, spots: Spots, distortion: Distortion | None
) -> AnnData:
    """The data with latent representation, its parts, split and genes; counts are shared with the input."""
    annotated = shallow_copy(adata)
    annotated.obs = annotated.obs.drop(columns=DOMAIN_KEY, errors="ignore")  # of something else
    annotated.obsm[LATENT_KEY] = latent
    for key, part in PARTS.items():
        annotated.obsm.pop(key, None)  # of an earlier fit
        values = latent if distortion is None else distortion.part(latent, part)
        if values.shape != latent.shape:
            annotated.obsm[key] = values
    annotated.obs[SPLIT_KEY] = pd.Categorical(spots.split.astype(object))
    annotated.var[GENE_KEY] = genes
    return annotated


def complete(run: Run, used: AnnData | None = None) -> None:
    """Find domains and compute metrics of a trained run; what fails is left out.

    Parameters
    ----------
    run
        Gets ``obs["isovi_domain"]`` in its data, and its metrics.
    used
        Data of the model; made from the run's data by default.

    Warns
    -----
    IsoviWarning
        If a part fails, with the reason and how to try again.
    """
    stages: dict[str, Callable[[], None]] = {
        "Domains": lambda: find_domains(run),
        "Mixing": lambda: run.metrics.update(mixing=mixing_by_column(run)),
        "Metrics": lambda: run.metrics.update(evaluate(run, run.model_data() if used is None else used)),
        "The certificate": lambda: run.metrics.update(certificate=certified(run)),
    }
    with isolated_random_state(run.settings.seed):
        for name, stage in stages.items():
            try:
                stage()
            except Exception as error:  # noqa: BLE001  # whatever it is, the training is kept
                reason = f"{name} could not be computed ({type(error).__name__}: {error})"
                said = f"{reason}. The trained run is kept without: try {run.retry}"
                warnings.warn(said, IsoviWarning, stacklevel=2)
    if said := unmeasured(run):
        notes = (note for note in run.provenance.notes if not note.startswith(UNMEASURED))
        run.provenance = replace(run.provenance, notes=(*notes, said))
        warnings.warn(said, IsoviWarning, stacklevel=2)


def find_domains(run: Run) -> None:
    """Find domains, and how they agree with labels where there are any."""
    settings = run.settings
    tl.domains(
        run.adata,
        **settings.keys,
        n_domains=n_labels(run.adata, settings.label_key),
        key_added=DOMAIN_KEY,
        seed=settings.seed,
    )
    whole = run.adata.uns[DOMAIN_KEY]["use_rep"] == LATENT_KEY and IDENTITY_KEY in run.adata.obsm
    if whole and WHOLE not in run.provenance.notes:
        run.provenance = replace(run.provenance, notes=(*run.provenance.notes, WHOLE))
    run.adata.uns[f"{DOMAIN_KEY}_colors"] = groups(run.adata.obs[DOMAIN_KEY]).colors_of_labels
    run.metrics |= domain_metrics(run.adata, settings)
    for key in groupings(run):
        warn_of_separate(run.adata, key)


def mixing_by_column(run: Run) -> dict[str, dict[str, float]]:
    """How well sections and batches mix, by column of ``obs``; none of fewer than 91 spots."""
    if run.adata.n_obs <= N_NEAREST:
        return {}
    return {key: tl.mixing(run.adata, key, seed=run.settings.seed) for key in groupings(run)}


def groupings(run: Run) -> list[str]:
    """Columns of sections and batches, where there are several."""
    keys = dict.fromkeys((run.settings.section_key, run.settings.batch_key))
    return [key for key in keys if key is not None and run.adata.obs[key].nunique() > 1]


def warn_of_separate(adata: AnnData, key: str) -> None:
    """Warn of domains that lie in one section or batch."""
    table = pd.crosstab(adata.obs[DOMAIN_KEY], adata.obs[key].astype(str), normalize="index")
    alone = table.max(axis=1)[lambda share: share >= SEPARATE]
    if len(alone):
        where = ", ".join(f"{domain} ({table.loc[domain].idxmax()})" for domain in alone.index)
        warnings.warn(
            f"{len(alone)} of {len(table)} domains have {SEPARATE:.0%} of their spots or more in one value "
            f'of obs["{key}"]: {where}. Either the tissue differs there, or a batch effect keeps spots '
            "apart, which batch_key corrects.",
            IsoviWarning,
            stacklevel=3,
        )


def n_labels(adata: AnnData, label_key: str | None) -> int | None:
    """Number of labels, if there are any."""
    if label_key is None:
        return None
    labels = adata.obs[label_key]
    return int(labels[tl.is_labelled(labels)].astype(str).nunique()) or None


def describe(model: Any, spots: Spots, settings: Settings) -> dict[str, Any]:
    """Numbers of spots, genes and epochs, and λ."""
    parts = {f"n_{part}": len(spots.rows(part)) for part in (TRAIN, VALIDATION, HELDOUT)}
    return {
        "n_obs": len(spots),
        **parts,
        "n_genes": model.summary_stats.n_vars,
        "epochs": len(model.history_["elbo_train"]),
        "distance_scale": None if settings.distortion is None else model.distance_scale,
    }


def evaluate(run: Run, used: AnnData) -> dict[str, dict[str, float]]:
    """Metrics on training, held-out and all spots."""
    settings = run.settings
    place = slice(None) if settings.distortion is None else settings.distortion.place
    geometry = tl.evaluate_geometry(run.adata.obsm[LATENT_KEY], run.spots, place=place, seed=settings.seed)
    likelihood = tl.evaluate_fit(run.model, used, run.spots, layer=settings.layer, seed=settings.seed)
    return {name: {**likelihood[name], **geometry[name]} for name in geometry}


def outcome_of(model: Any) -> dict[str, Any]:
    """How training ended, in words and as plain values; the plain backbone keeps no record of it."""
    outcome = getattr(model, "training_outcome_", None)
    epochs = len(model.history_["elbo_train"])
    return (
        {"summary": f"Trained {epochs} epochs."}
        if outcome is None
        else {"summary": str(outcome), **asdict(outcome)}
    )


def domain_metrics(adata: AnnData, settings: Settings) -> dict[str, Any]:
    """Number of domains, and their agreement with labels, where there are any, beside that of tiles.

    Tiles are k-means on the coordinates alone. With labels, ``ari`` and ``nmi`` are those of the domains,
    ``domain_ari_coordinates_only`` and ``domain_nmi_coordinates_only`` those of as many tiles, and
    ``domain_agreement_coordinates_only`` is the adjusted Rand index of domains and tiles.
    """
    domains = adata.obs[DOMAIN_KEY]
    found: dict[str, Any] = {"n_domains": int(domains.nunique())}
    if settings.label_key is None:
        return found
    labels, record = adata.obs[settings.label_key], adata.uns[DOMAIN_KEY]
    coordinates = check.spots(adata, **settings.keys).coordinates
    tiles = tl.coordinate_domains(coordinates, record["n_domains"], record["seed"])
    beside = tl.clustering_agreement(tiles, labels)
    return {
        **found,
        **tl.clustering_agreement(domains, labels),
        **{f"domain_{name}_coordinates_only": value for name, value in beside.items()},
        "domain_agreement_coordinates_only": record["coordinates_only"],
    }


def certified(run: Run) -> dict[str, Any]:
    """What is certified for random pairs of spots: a ``PointCertificate`` by field, if finite; or nothing."""
    found = run.certificate() if HELDOUT in run.parts() else None
    if found is None or found.point is None or not np.isfinite(found.point.L):
        return {}
    fields = asdict(found.point)
    return {name: value for name, value in fields.items() if isinstance(value, str) or np.isfinite(value)}


def report_metrics(run: Run, progress: Progress) -> None:
    """Say the most telling metrics, on held-out spots where there are such."""
    found, where = run.heldout, "Held-out" if HELDOUT in run.metrics else "All"
    line = (
        f"{where} spots: Spearman correlation of distances {number(found['spearman_distance'], '.3f')}, "
        f"reconstruction {number(found['reconstruction'], '.2f')} nats"
    )
    if "coordinate_error" in found:
        line += f", coordinate error {number(found['coordinate_error'], '.2f')} spacings"
    line += f"; {run.metrics['n_domains']} domains"
    if "ari" in run.metrics:
        agreement = ", ".join(f"{name.upper()} {number(run.metrics[name], '.3f')}" for name in ("ari", "nmi"))
        line += f" (agreement with the labels, all spots: {agreement})"
    progress.say(line)
    if WHOLE in run.provenance.notes:
        progress.say(WHOLE)
    judged = verdict(run)
    if judged.certificate:
        progress.say(_geometry(judged))
    progress.say(f"Verdict: {judged.headline()}")


def _geometry(judged: Verdict) -> str:
    """What is known of distances of held-out spots, on one line."""
    certificate = judged.certificate
    distortion, constant = (
        "NaN" if value is None else f"{value:{form}}"
        for value, form in ((judged.heldout, ".3f"), (judged.constant, ".2f"))
    )
    line = (
        f"Held-out geometry: relative distortion {distortion}; L({CERTIFIED_EPSILON:g}) = {constant}; "
        f"certified with {1 - certificate['delta']:.0%} confidence: "
        f"L({certificate['epsilon']:g}) <= {certificate['L']:.2f}"
    )
    if certificate["epsilon"] > CERTIFIED_EPSILON:
        line += f" ({CERTIFIED_EPSILON:g} takes {cells_needed(CERTIFIED_EPSILON)} held-out spots)"
    return line


def number(value: float, form: str) -> str:
    """A number as text; NaN and infinity are written NaN."""
    return format(value, form) if np.isfinite(value) else "NaN"


def unmeasured(run: Run) -> str:
    """Which metrics are NaN or infinite, and why; nothing if none is."""
    lacking: dict[str, list[str]] = {}
    for part in (TRAIN, HELDOUT, "all"):
        for name, value in run.metrics.get(part, {}).items():
            if not np.isfinite(value):
                lacking.setdefault(tl.METRICS[name].label, []).append(part)
    scale = run.metrics["distance_scale"]
    scales = scale.values() if isinstance(scale, Mapping) else () if scale is None else (scale,)
    if not np.isfinite(list(scales)).all():
        lacking["distance_scale"] = ["λ"]
    if not lacking:
        return ""
    listed = "; ".join(f"{label} ({', '.join(parts)})" for label, parts in lacking.items())
    where = run.spots.take(run.split == HELDOUT) if HELDOUT in run.metrics else run.spots
    places = len(np.unique(np.column_stack([where.section, where.coordinates]), axis=0))
    latent = run.adata.obsm[LATENT_KEY]
    return (
        f"{UNMEASURED}{listed}. The {len(where)} {'held-out ' if HELDOUT in run.metrics else ''}spots are at "
        f"{places} positions, and the latent representation varies by {float(latent.std()):.2g} in "
        f"{latent.shape[1]} dimensions. Metrics of distances need pairs in one section whose distances vary; "
        "ellipses need neighbours in every direction, and as many latent dimensions as the tissue has."
    )


def peak_memory() -> float | None:
    """Largest resident memory of this process in megabytes, where the system has it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
