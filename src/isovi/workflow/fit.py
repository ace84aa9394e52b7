"""The main job: a file in, a folder with latent, model, figures and pictures out."""

from __future__ import annotations

import functools
import logging
import platform
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from rich.console import Console

from isovi.data import check, io, pack
from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.spatialdata import require_known_sections
from isovi.errors import InputError, IsoviWarning
from isovi.graph import AllPairs, PairKind
from isovi.model.checkpoint import EpochCheckpoint
from isovi.model.distributed import is_first_process
from isovi.model.objective import Constraint, Distortion, Penalty
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, VALIDATION, Spots
from isovi.tl import clustering_agreement, domains, is_labelled
from isovi.tl.evaluate import evaluate_fit, evaluate_geometry
from isovi.workflow import guarantee
from isovi.workflow.finished import BACKBONES, GENE_KEY, LATENT_KEY
from isovi.workflow.pictures import draw
from isovi.workflow.prepare import (
    count_empty,
    gene_spots,
    holdout_of,
    select_genes,
    split_spots,
)
from isovi.workflow.progress import EpochProgress
from isovi.workflow.resume import (
    Attempt,
    begin,
    checkpoint_of,
    describe_attempt,
    finished,
    kept,
    require_decision,
)

DOMAIN_KEY = "isovi_domain"
WORKING_STORE = "genes.zarr"  # the chosen genes of packed data, while the run lasts
PACKAGES = (
    "isovi",
    "scvi-tools",
    "torch",
    "lightning",
    "anndata",
    "scanpy",
    "numpy",
    "scipy",
    "scikit-learn",
)


@dataclass(frozen=True)
class FitOptions:
    """What ``isovi fit`` was asked to do.

    Attributes
    ----------
    input
        Raw counts and positions, in whatever :func:`isovi.data.io.read` takes; never changed. Of a
        store that :func:`isovi.data.pack.pack` wrote the counts stay on disk.
    out
        Folder to write; it appears whole or not at all.
    backbone
        ``"scvi"`` or ``"vae"``.
    distortion
        What is asked of distances. ``Penalty(0)`` is the same network and training without the term.
    pairs
        Pairs whose distances count.
    spatial_key, section_key, batch_key, label_key, layer
        Where positions, sections, batches, labels and counts stand in the file.
    n_top_genes, n_latent, max_epochs
        Size of the model and of the training; ``None`` epochs is scvi-tools' heuristic.
    holdout
        Share of spots to hold out, or ``section:NAME``.
    seed
        Of the split, the training and the figures.
    force
        Replace an earlier run in ``out``.
    resume
        Go on with an unfinished run from its last checkpoint, if there is one.
    devices, nodes
        Devices (GPUs, or processes without any) of each machine, and machines, that train together.
    table, coordinate_system, coordinates
        What to read of the input; see :class:`isovi.data.io.Source`.
    min_counts
        Spots with fewer counts are left out.
    """

    input: Path
    out: Path
    backbone: str = "scvi"
    distortion: Distortion = field(default_factory=Constraint)
    pairs: PairKind = field(default_factory=AllPairs)
    spatial_key: str = "spatial"
    section_key: str | None = None
    batch_key: str | None = None
    label_key: str | None = None
    layer: str | None = None
    n_top_genes: int = 2000
    n_latent: int = 10
    holdout: str = "0.1"
    max_epochs: int | None = None
    seed: int = 0
    force: bool = False
    resume: bool = False
    devices: int = 1
    nodes: int = 1
    table: str | None = None
    coordinate_system: str | None = None
    coordinates: Path | None = None
    min_counts: int = 0

    @property
    def source(self) -> io.Source:
        """What is read."""
        return io.Source(self.input, self.table, self.coordinate_system, self.coordinates)


def fit(options: FitOptions, console: Console | None = None) -> dict[str, Any]:
    """Fit a distance-preserving model to a file and write a folder of results.

    Parameters
    ----------
    options
        What to do.
    console
        Where progress goes; nowhere by default.

    Returns
    -------
    What ``metrics.json`` holds; in other processes than the first, nothing.

    Raises
    ------
    InputError
        If the file or an option cannot be used; before any training.
    OutputError
        If the folder cannot be written; before any training.
    """
    console = console or Console(quiet=True)
    started = time.perf_counter()
    check_options(options)
    if options.devices * options.nodes > 1 and not is_first_process():
        return assist(options)
    if (
        options.resume
        and not options.force
        and (done := finished(options.out, plain(options), options.source))
    ):
        say(console, f"{options.out} is finished: there is nothing to go on with")
        return done
    require_decision(options.out, resume=options.resume, force=options.force)
    if options.resume:
        io.remove_leftovers(options.out)
    keeping = kept(checkpoint_of(options.out), functools.partial(say, console))
    with keeping, io.output_directory(options.out, options.force) as folder:
        adata = read(options, console)
        attempt = look_for_earlier(options, console)
        placement = place(adata, options)
        genes = choose_genes(adata, placement, options, console)
        used = pack.take_genes(adata, genes, folder / WORKING_STORE)
        model = train(used, placement, options, console, attempt)
        latent = model.get_latent_representation(used)
        metrics = describe(model, adata, placement, options)
        metrics.update(measure(model, used, latent, placement, options))
        annotate(adata, latent, genes, placement, options)
        metrics.update(domain_figures(adata, options))
        metrics["guarantee"] = guarantee.headline(adata, adata.uns["isovi"])
        tell(metrics, console)
        metrics.update(seconds=round(time.perf_counter() - started, 2), peak_memory_mb=peak_memory())
        draw(folder / "figures", model, adata, placement, options)
        write(folder, model, adata, metrics, options)
        shutil.rmtree(folder / WORKING_STORE, ignore_errors=True)
    say(console, f"Wrote {options.out}")
    return metrics


def assist(options: FitOptions) -> dict[str, Any]:
    """What every process but the first does: its share of the training."""
    console = Console(quiet=True)
    adata = read(options, console)
    placement = place(adata, options)
    genes = choose_genes(adata, placement, options, console)
    checkpoint = checkpoint_of(options.out)
    attempt = Attempt(checkpoint, {}, options.resume and checkpoint.exists())
    with tempfile.TemporaryDirectory() as folder:
        used = pack.take_genes(adata, genes, Path(folder) / WORKING_STORE)
        train(used, placement, options, console, attempt)
    return {}


def look_for_earlier(options: FitOptions, console: Console) -> Attempt:
    """Whether there is an unfinished run to go on with, and that it is the same one."""
    about = describe_attempt(plain(options), io.digest(options.source))
    attempt = begin(options.out, about, resume=options.resume)
    if attempt.resumes:
        say(console, f"Going on from {attempt.checkpoint}")
    elif options.resume:
        say(console, "There is no unfinished run to go on with: starting from the beginning")
    return attempt


def say(console: Console, text: str) -> None:
    """Print one line as it is: names and paths may hold what rich takes for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def distortion_of(target: float | None, penalty: float | None, plain: bool) -> Distortion:
    """What is asked of distances, from three options of which at most one may be given.

    Parameters
    ----------
    target
        Tolerated relative distortion of a constraint.
    penalty
        Weight of a penalty.
    plain
        The same network and training without the term.

    Raises
    ------
    InputError
        If more than one is given, or a number is out of range.
    """
    if (target is not None) + (penalty is not None) + plain > 1:
        raise InputError(
            "More than one of --distortion-target, --penalty and --plain was given.",
            "They exclude each other.",
            f"Give one of them, or none for a target of {Constraint().target:g}.",
        )
    if plain:
        return Penalty(0.0)
    if penalty is not None:
        return Penalty(penalty)
    return Constraint() if target is None else Constraint(target)


def check_options(options: FitOptions) -> None:
    """Refuse impossible numbers before anything is read."""
    for name, least in (
        ("n_latent", 1),
        ("max_epochs", 1),
        ("seed", 0),
        ("devices", 1),
        ("nodes", 1),
        ("min_counts", 0),
    ):
        value = getattr(options, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise InputError(
                f"--{flag} {value} was asked for.", f"It must be at least {least}.", "Give another number."
            )
    if options.backbone not in BACKBONES:
        raise InputError(
            f"--backbone {options.backbone} was asked for.",
            f"The backbones are {', '.join(BACKBONES)}.",
            "Name one.",
        )


def read(options: FitOptions, console: Console) -> AnnData:
    """Read the input and check all that is used of it."""
    packed = pack.is_packed(options.input)
    adata = open_packed(options) if packed else read_source(options)
    require_known_sections(adata, options.section_key)
    check.dataset(
        adata,
        spatial_key=options.spatial_key,
        section_key=options.section_key,
        batch_key=options.batch_key,
        label_key=options.label_key,
        layer=options.layer,
        allow_empty_genes=True,  # genes that training spots lack are dropped below
    )
    how = "Opened" if packed else "Read"
    say(console, f"{how} {adata.n_obs} spots x {adata.n_vars} genes from {options.input}")
    return adata


def read_source(options: FitOptions) -> AnnData:
    """Read the input into memory, without the spots of few counts."""
    adata = io.read(options.source)
    if not adata.obsm:
        raise InputError(
            f'"{options.input}" has no positions.',
            "The position of every spot is needed.",
            "Pass --coordinates FILE, a table with the names of the spots and columns x and y.",
        )
    return drop_cells(adata, options.min_counts, options.layer)


def open_packed(options: FitOptions) -> AnnData:
    """Open a packed store; what is read of it was chosen when it was packed."""
    given = {"table": None, "coordinate-system": None, "coordinates": None, "min-counts": 0}
    wrong = [name for name, none in given.items() if getattr(options, name.replace("-", "_")) != none]
    if wrong:
        raise InputError(
            f'--{wrong[0]} was given with "{options.input}", which is packed.',
            "What is read was chosen when it was packed.",
            "Leave it out, or give it to isovi pack.",
        )
    return pack.open_packed(options.input)


def place(adata: AnnData, options: FitOptions) -> Spots:
    """Where the spots are, and which are held out."""
    spots = check.spots(adata, options.spatial_key, options.section_key)
    holdout = holdout_of(adata, options.holdout, options.section_key)
    split = split_spots(adata.n_obs, holdout, rng=np.random.default_rng(options.seed))
    check_split(adata, split, options)
    return replace(spots, split=split.astype("<U10"))


def check_split(adata: AnnData, split: np.ndarray, options: FitOptions) -> None:
    """Refuse a split that leaves too little to train on, or a held-out batch that training never saw."""
    if (split == TRAIN).sum() < 10:
        raise InputError(
            f"{(split == TRAIN).sum()} of {adata.n_obs} spots are left for training.",
            "At least 10 are needed.",
            "Hold out fewer spots.",
        )
    if options.batch_key is None:
        return
    batches = adata.obs[options.batch_key].astype(str).to_numpy()
    unseen = sorted(set(batches) - set(batches[split == TRAIN]))
    if unseen:
        raise InputError(
            f"No training spot is of batch {', '.join(unseen)} in obs[{options.batch_key!r}].",
            "The decoder cannot predict a batch that it never saw.",
            "Hold out a share of spots instead, or leave --batch-key out.",
        )


def choose_genes(adata: AnnData, placement: Spots, options: FitOptions, console: Console) -> np.ndarray:
    """Genes chosen on training spots; every spot must have counts in them."""
    train_spots = placement.split == TRAIN
    genes = select_genes(
        adata, train_spots, n_top_genes=options.n_top_genes, layer=options.layer, seed=options.seed
    )
    empty = count_empty(adata.X if options.layer is None else adata.layers[options.layer], genes)
    if empty:
        raise InputError(
            f"{empty} spots have no count in the {int(genes.sum())} genes chosen.",
            "Every spot needs a count.",
            "Raise --n-top-genes, or leave out spots of few counts: --min-counts 50.",
        )
    parts = ", ".join(f"{(placement.split == part).sum()} {part}" for part in (TRAIN, VALIDATION, HELDOUT))
    n_asked = len(gene_spots(train_spots, options.seed))
    asked = f"{n_asked} of the" if n_asked < train_spots.sum() else "the"
    say(console, f"Split into {parts} spots; {int(genes.sum())} genes chosen on {asked} training spots")
    return genes


def train(used: AnnData, placement: Spots, options: FitOptions, console: Console, attempt: Attempt) -> Any:
    """Train on the spots that are not held out, or go on with it."""
    scvi.settings.seed = options.seed
    scvi.settings.verbosity = logging.WARNING
    backbone = BACKBONES[options.backbone]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # said when the file was read
        backbone.setup_anndata(
            used,
            layer=options.layer,
            batch_key=options.batch_key,
            spatial_key=options.spatial_key,
            section_key=options.section_key,
        )
    model = backbone(used, distortion=options.distortion, pairs=options.pairs, n_latent=options.n_latent)
    parts = [placement.rows(part) for part in (TRAIN, VALIDATION, HELDOUT)]
    model.train(
        options.max_epochs,
        early_stopping=len(parts[1]) > 0,
        datasplitter_kwargs={"external_indexing": parts},
        enable_progress_bar=False,
        callbacks=[EpochProgress(console), EpochCheckpoint(attempt.checkpoint, attempt.about)],
        ckpt_path=attempt.checkpoint if attempt.resumes else None,
        **several(options),
    )
    say(console, getattr(model, "training_summary_", ""))  # the first process has it
    return model


def several(options: FitOptions) -> dict[str, Any]:
    """Arguments of a training in several processes."""
    if options.devices * options.nodes == 1:
        return {}
    return {"devices": options.devices, "num_nodes": options.nodes}


def describe(model: Any, adata: AnnData, placement: Spots, options: FitOptions) -> dict[str, Any]:
    """What was run, as ``metrics.json`` says it."""
    return {
        "n_obs": adata.n_obs,
        "n_train": int((placement.split == TRAIN).sum()),
        "n_validation": int((placement.split == VALIDATION).sum()),
        "n_heldout": int((placement.split == HELDOUT).sum()),
        "n_genes": model.summary_stats.n_vars,
        "backbone": options.backbone,
        "distortion": str(options.distortion),
        "seed": options.seed,
        "epochs": len(model.history_["elbo_train"]),
        "distance_scale": model.distance_scale,
    }


def measure(
    model: Any, used: AnnData, latent: np.ndarray, placement: Spots, options: FitOptions
) -> dict[str, Any]:
    """Figures of quality on training, held-out and all spots."""
    geometry = evaluate_geometry(latent, placement, seed=options.seed)
    fits = evaluate_fit(model, used, placement, layer=options.layer, seed=options.seed)
    return {name: {**fits[name], **geometry[name]} for name in geometry}


def annotate(
    adata: AnnData, latent: np.ndarray, genes: np.ndarray, placement: Spots, options: FitOptions
) -> None:
    """Write latent, domains, split and parameters to the data."""
    adata.obsm[LATENT_KEY] = latent
    adata.obs[SPLIT_KEY] = np.asarray(placement.split, dtype=object)
    adata.obs[SPLIT_KEY] = adata.obs[SPLIT_KEY].astype("category")
    adata.var[GENE_KEY] = genes
    adata.uns["isovi"] = {key: value for key, value in plain(options).items() if value is not None}
    domains(
        adata,
        use_rep=LATENT_KEY,
        spatial_key=options.spatial_key,
        section_key=options.section_key,
        n_domains=_n_labels(adata, options.label_key),
        key_added=DOMAIN_KEY,
        seed=options.seed,
    )


def _n_labels(adata: AnnData, label_key: str | None) -> int | None:
    if label_key is None:
        return None
    labels = adata.obs[label_key]
    return int(labels[is_labelled(labels)].astype(str).nunique()) or None


def domain_figures(adata: AnnData, options: FitOptions) -> dict[str, Any]:
    """Number of domains, and their agreement with labels where there are any."""
    found: dict[str, Any] = {"n_domains": int(adata.obs[DOMAIN_KEY].nunique())}
    if options.label_key is not None:
        found.update(clustering_agreement(adata.obs[DOMAIN_KEY], adata.obs[options.label_key]))
    return found


def tell(metrics: dict[str, Any], console: Console) -> None:
    """Figures, held out where there are such spots; what is known of geometry comes last."""
    part = "heldout" if "heldout" in metrics else "all"
    figures = metrics[part]
    line = (
        f"{'Held-out' if part == 'heldout' else 'All'} spots: "
        f"Spearman of distances {figures['spearman_distance']:.3f}, "
        f"reconstruction {figures['reconstruction']:.2f} nats"
    )
    if "coordinate_error" in figures:
        line += f", coordinate error {figures['coordinate_error']:.2f} spacings"
    say(console, f"{line}; {metrics['n_domains']} domains")
    if metrics["guarantee"]:
        say(console, guarantee.tell(metrics["guarantee"], figures))


def write(folder: Path, model: Any, adata: AnnData, metrics: dict[str, Any], options: FitOptions) -> None:
    """Write model, data, figures and the record of the run."""
    model.save(str(folder / "model"), save_anndata=False)
    history = [table for table in model.history_.values() if table.index.name == "epoch"]
    pd.concat(history, axis=1).to_csv(folder / "history.csv")
    whole = not pack.is_on_disk(adata.X)
    io.write_atomic(adata if whole else pack.in_input_order(adata), folder / "adata.h5ad")
    io.write_json(folder / "metrics.json", metrics)
    record = {
        "command": shlex.join(sys.argv),
        "arguments": plain(options),
        "seed": options.seed,
        "input_sha256": io.digest(options.source),
        "seconds": metrics["seconds"],
        "peak_memory_mb": metrics["peak_memory_mb"],
        "summary": model.training_summary_,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "platform": platform.platform(),
    }
    io.write_json(folder / "run.json", record)


def plain(options: FitOptions) -> dict[str, Any]:
    """Options as text and numbers."""
    found = {option.name: getattr(options, option.name) for option in fields(options)}
    return {
        name: value if isinstance(value, int | float | str | None) else str(value)
        for name, value in found.items()
    }


def peak_memory() -> float | None:
    """Largest resident memory of this process in megabytes, where the system tells it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
