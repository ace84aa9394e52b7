"""A run: the result of a fit, in memory and as a folder on disk."""

from __future__ import annotations

import ast
import platform
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi import _run_files, tl
from isovi._records import as_data, from_data
from isovi._repr import ReprMixin, Rows
from isovi.data import check, io, pack
from isovi.data.fingerprint import RUN_KEY, SEALS, seals
from isovi.errors import InputError, IsoviWarning, require_seed
from isovi.geometry.certificate import CERTIFIED_EPSILON
from isovi.graph import KIND_CLASSES, AllPairs, PairKind
from isovi.model.model import IsoSCVI, IsoVAE
from isovi.model.objective import Constraint, Distortion, Part, Penalty
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, Spots
from isovi.tl._inputs import GENE_KEY as GENE_KEY  # where the keys of a run are looked for
from isovi.tl._inputs import IDENTITY_KEY, PLACE_KEY
from isovi.tl._inputs import LATENT_KEY as LATENT_KEY
from isovi.tl.certificate import Certificate
from isovi.verdict import WORDS, Verdict, verdict

CHECKPOINT = ".partial.ckpt"  # behind the name of a run: its unfinished training, beside it
FIRST_SCHEMA = 1
SCHEMA = 2  # version of run.json; the first one had no checksums
LEGACY = "0.1.0"  # id of the runs of that version, which had none
DOMAIN_KEY = "isovi_domain"  # in obs
PARTS: dict[str, Part] = {PLACE_KEY: "place", IDENTITY_KEY: "identity"}  # in obsm, where there are two
BACKBONES: dict[str, Any] = {"scvi": IsoSCVI, "vae": IsoVAE}
PACKAGES = (
    *("isovi", "scvi-tools", "torch", "lightning", "anndata"),
    *("scanpy", "numpy", "scipy", "scikit-learn"),
)
_COMPLETE = {"all", "n_domains", "certificate"}  # metrics of a run that has all of them
_LEAST = {"n_latent": 1, "max_epochs": 1, "devices": 1, "nodes": 1}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a fit: passed to :func:`isovi.fit` on the same data, they repeat it.

    Parameters
    ----------
    holdout
        Share of spots to hold out, between 0 and 0.9, or ``"section:NAME"`` for a whole section.
    spatial_key, section_key, batch_key, label_key, layer
        Where positions (``obsm``), sections, batches and labels (``obs``) and counts (``layers``) are.
    keep_controls
        Whether control probes and other features that are no genes are used like genes.
    round_counts
        Whether counts that were corrected for ambient RNA, or estimated, are rounded.
    backbone
        ``"scvi"`` (counts) or ``"vae"`` (Gaussian on log-normalised counts).
    distortion
        A constraint or penalty on distances; ``Penalty(0)`` is the same network and training without the
        term, ``None`` the backbone itself.
    pairs
        Pairs whose distances count.
    n_top_genes
        Number of highly variable genes, chosen on training spots; 0 for all.
    n_latent
        Number of latent dimensions.
    max_epochs
        Largest number of epochs; scvi-tools' heuristic by default.
    seed
        Random seed of split, training and metrics.
    devices, nodes
        Devices (GPUs, or processes without any) of each machine, and machines, that train together.

    Raises
    ------
    InputError
        If a number is out of range or the backbone is not known.
    """

    holdout: float | str = 0.1
    spatial_key: str = "spatial"
    section_key: str | None = None
    batch_key: str | None = None
    label_key: str | None = None
    layer: str | None = None
    keep_controls: bool = False
    round_counts: bool = False
    backbone: str = "scvi"
    distortion: Distortion | None = field(default_factory=Constraint)
    pairs: PairKind = field(default_factory=AllPairs)
    n_top_genes: int = 2000
    n_latent: int = 10
    max_epochs: int | None = None
    seed: int = 0
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                rule = f"It must be at least {least}."
                raise InputError(f"{name}={value} was given.", rule, "Give another number.")
        require_seed(self.seed)
        if self.backbone not in BACKBONES:
            rule = f"The backbones are {', '.join(BACKBONES)}."
            raise InputError(f"backbone={self.backbone!r} was given.", rule, "Name one of them.")
        if not (isinstance(self.holdout, str) and self.holdout.startswith("section:")):
            object.__setattr__(self, "holdout", _share(self.holdout))

    @property
    def keys(self) -> dict[str, Any]:
        """``spatial_key`` and ``section_key``, as the functions of :mod:`isovi.tl` take them."""
        return {"spatial_key": self.spatial_key, "section_key": self.section_key}

    @property
    def reading(self) -> dict[str, Any]:
        """What ``isovi.data.usable.prepared`` takes: positions, layer, controls and rounding."""
        names = ("spatial_key", "layer", "keep_controls", "round_counts")
        return {name: getattr(self, name) for name in names}

    @property
    def target(self) -> float | None:
        """Tolerated relative distortion, if there is a constraint."""
        return self.distortion.target if isinstance(self.distortion, Constraint) else None

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        default = type(self)()
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(default, name)}

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = as_data(self)
        del data["kind"]
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Settings:
        """The settings that :meth:`as_data` was called of."""
        return from_data({"kind": "Settings", **data}, [cls, Constraint, Penalty, *KIND_CLASSES])


def _share(holdout: Any) -> float:
    try:
        share = float(holdout)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 0.9:
        raise InputError(
            f"holdout={holdout} was given.",
            "It is a share of spots between 0 and 0.9, or section:NAME.",
            "Give for example holdout=0.25.",
        )
    return share


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a run comes from.

    Attributes
    ----------
    sha256
        Hash of the content of the input.
    source
        What was read, by name (``path`` and options of reading); empty for an AnnData in memory.
    call
        How the fit was called: a line of Python or a command.
    seconds, peak_memory_mb
        Time that it took, and largest memory of the process where it is known.
    versions, platform
        Of Python and packages, and of the machine.
    notes
        What was left out, guessed or converted on reading and checking, as it was reported.
    """

    sha256: str
    source: Mapping[str, Any] = field(default_factory=dict)
    call: str = ""
    seconds: float = float("nan")
    peak_memory_mb: float | None = None
    versions: Mapping[str, str] = field(
        default_factory=lambda: {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        }
    )
    platform: str = field(default_factory=platform.platform)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))  # JSON has lists


@dataclass(eq=False, repr=False)
class Run(ReprMixin):
    """Result of a fit.

    Made by :func:`isovi.fit`, written by :meth:`write`, read by :meth:`read`. Data and model of a run that
    was read are loaded when they are first used.

    Attributes
    ----------
    settings
        What was asked for.
    metrics
        Metrics on training (``"train"``), held-out (``"heldout"``) and all spots (``"all"``), each by the
        names of ``isovi.tl.METRICS``, and what is known of the whole: ``n_obs``, ``n_train``,
        ``n_validation``, ``n_heldout``, ``n_genes``, ``epochs``, ``distance_scale``, ``n_domains``,
        ``certificate``, and where there are labels ``ari``, ``nmi`` and the ``domain_*_coordinates_only`` of
        ``isovi.pipeline.domain_metrics``.
    provenance
        Input, versions and call.
    history
        A row for each epoch of the training.
    training
        How training ended: ``summary`` in words, and what it is made of.
    id
        Shared by the run, its data (``uns["isovi"]["id"]``) and its model (``run_id_``).
    folder
        Where it was read from or written to.
    trust
        Whether a pickled model may be loaded, which may execute code; see :meth:`read`.
    checksums
        SHA-256 of the files in that folder, by name; a file is read only if it has its own. Empty for runs
        of the first schema and of 0.1.0.
    """

    settings: Settings
    metrics: dict[str, Any]
    provenance: Provenance
    history: pd.DataFrame
    training: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    folder: Path | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    scratch: Any = None  # temporary files of packed data, which live as long as the run
    trust: bool = False

    @classmethod
    def of(cls, adata: AnnData, model: Any, **parts: Any) -> Run:
        """A run whose data and model are in memory."""
        run = cls(**parts)
        run.adata, run.model = adata, model
        model.run_id_ = run.id
        settings = _without_none(run.settings.as_data())
        sealed = seals(adata.obsm[LATENT_KEY], adata.obs[SPLIT_KEY].astype(str).to_numpy())
        adata.uns[RUN_KEY] = {"id": run.id, "schema": SCHEMA, "settings": settings, SEALS: sealed}
        return run

    @cached_property
    def adata(self) -> AnnData:
        """The data, with ``obsm["X_isovi"]``, domains, split, and genes of the model."""
        file = self._file("adata.h5ad")
        adata = io.read(file)
        found = adata.uns.get(RUN_KEY)
        found = found.get("id") if isinstance(found, Mapping) else None
        if str(found or (LEGACY if self.id == LEGACY else "")) != self.id:  # 0.1.0 had none
            raise InputError(
                f'"{file}" is not the data of this run.',
                "Data, model and metrics of a run belong together.",
                "Put the file back that the fit wrote, or fit again.",
            )
        domains = DOMAIN_KEY if "n_domains" in self.metrics else None
        keys = (SPLIT_KEY, domains, self.settings.section_key, self.settings.label_key)
        columns = tuple(key for key in keys if key is not None)
        shape = (self.metrics["n_obs"], self.settings.n_latent)
        _run_files.require_data(adata, file, shape, latent=LATENT_KEY, columns=columns, genes=GENE_KEY)
        with _run_files.usable(file):
            check.coordinates(adata, self.settings.spatial_key)
        return adata

    @cached_property
    def model(self) -> Any:
        """The trained model, set up with the genes and all spots of the data."""
        data = self.model_data()
        if self.id == LEGACY:  # set up without the held-out spots
            data = data[self.split != HELDOUT].copy()
        return self.model_with(data)

    def model_with(self, data: AnnData) -> Any:
        """The trained model, read from the folder and set up with these cells of :meth:`model_data`."""
        file = self._file("model")
        with _run_files.readable(file):
            return BACKBONES[self.settings.backbone].load(str(file), adata=data, trust=self.trust)

    def model_data(self, cells: np.ndarray | None = None) -> AnnData:
        """A copy of the data with the genes of the model; of packed data the counts are read from the store.

        Parameters
        ----------
        cells
            Mask of the cells that are wanted, shape ``(n_obs,)``; all by default.

        Raises
        ------
        InputError
            If the packed store is no longer where the run was made of it.
        """
        genes = self.adata.var[GENE_KEY].to_numpy(dtype=bool)
        some = self.adata if cells is None else self.adata[cells]
        if self.adata.X is not None:
            return some[:, genes].copy()
        path = str(self.provenance.source.get("path", ""))
        if not pack.is_packed(path) or not self._is_of(stored := pack.open_packed(path)):
            raise InputError(
                f'The run in "{self.folder}" is of packed data, whose counts are not in its adata.h5ad.',
                f'The model needs them, from the store "{path}".',
                "Put that store back, or call isoVI from the folder that the path is relative to.",
            )
        layer = self.settings.layer
        counts = pack.counts_in_input_order(
            stored.X if layer is None else stored.layers[layer], stored, genes, cells
        )
        parts = {"obs": some.obs.copy(), "var": some.var[genes].copy(), "obsm": dict(some.obsm)}
        return AnnData(counts, **parts, layers={} if layer is None else {layer: counts})

    def _is_of(self, stored: AnnData) -> bool:
        """Whether a packed store has the cells and genes of this run."""
        order = np.argsort(pack.input_order(stored))
        cells = stored.obs_names[order]
        return bool(cells.equals(self.adata.obs_names) and stored.var_names.equals(self.adata.var_names))

    def latent(self, part: Part = "whole") -> np.ndarray:
        """Latent representation of all spots or a part of it, shape ``(cell, latent)``.

        Parameters
        ----------
        part
            ``"whole"``; ``"place"``, the dimensions whose distances count; ``"identity"``, the others.
        """
        found = np.asarray(self.adata.obsm[LATENT_KEY], dtype=np.float64)
        distortion = self.settings.distortion
        return found if distortion is None else distortion.part(found, part)

    @cached_property
    def spots(self) -> Spots:
        """Where the spots are, and how they were split."""
        return check.spots(self.adata, self.settings.spatial_key, self.settings.section_key)

    @property
    def split(self) -> np.ndarray:
        """``"train"``, ``"validation"`` or ``"heldout"`` for each spot."""
        return self.spots.split

    @property
    def heldout(self) -> dict[str, float]:
        """Metrics on held-out spots, on all if none were held out."""
        if not {HELDOUT, "all"} & self.metrics.keys():
            self.require_complete()
        return self.metrics.get(HELDOUT) or self.metrics["all"]

    @property
    def is_complete(self) -> bool:
        """Whether it has domains and metrics, which are made when model and data are on disk already."""
        return self.metrics.keys() >= _COMPLETE

    def require_complete(self) -> None:
        """Refuse a run that has no metrics.

        Raises
        ------
        InputError
            If making its domains or metrics failed, or was interrupted.
        """
        if not self.is_complete:
            missing = ", ".join(sorted(_COMPLETE - self.metrics.keys()))
            raise InputError(
                f"The run {self.folder or self.id} is not complete: its metrics lack {missing}.",
                "Domains and metrics are made after the training, which failed or was interrupted.",
                f"Make them: {self.retry}.",
            )

    @property
    def retry(self) -> str:
        """What makes domains, metrics and plots again, as it is typed."""
        return "isovi.diagnose.diagnose(run)" if self.folder is None else f"isovi diagnose {self.folder}"

    def parts(self) -> dict[str, np.ndarray]:
        """Rows of the held-out and of the training spots, as far as they form pairs."""
        rows = {part: self.spots.rows(part) for part in (HELDOUT, TRAIN)}
        sections = self.spots.section
        return {part: found for part, found in rows.items() if len(found) > len(np.unique(sections[found]))}

    def certificate(self, *, matched: bool = False) -> Certificate:
        """What is certified of distances on held-out spots, for ε = 0.1 or the least ε that they allow.

        Parameters
        ----------
        matched
            As for :func:`isovi.tl.certificate`.

        Raises
        ------
        InputError
            If no pair of spots was held out.
        """
        asked: dict[str, Any] = {"matched": matched, "seed": self.settings.seed, **self.settings.keys}
        curve = tl.certificate(self.adata, epsilon=None, **asked)
        epsilon = max(CERTIFIED_EPSILON, curve.least_epsilon)
        return curve if epsilon >= 1 else tl.certificate(self.adata, epsilon=epsilon, **asked)

    def summary(self) -> Rows:
        """What is shown of it, by name."""
        data = f"{self.metrics['n_obs']} spots, {self.metrics['n_genes']} genes"
        rows: dict[str, Any] = {"data": data, "settings": self.settings.changed() or "defaults"}
        if not self.is_complete:
            return {**rows, "metrics": f"none yet: {self.retry}"}
        if (judged := self._judged()) is not None:
            rows["verdict"] = judged.headline()
        where = "held-out" if HELDOUT in self.metrics else "all"
        rows |= {f"{where} {m.label}": self.heldout[n] for n, m in tl.METRICS.items() if n in self.heldout}
        return rows if self.folder is None else {**rows, "folder": str(self.folder)}

    def _judged(self) -> Verdict | None:
        """The verdict on a complete run, which cannot be known where its data cannot be read."""
        with suppress(InputError):
            return verdict(self)
        return None

    def _repr_html_(self) -> str:
        """The summary as a table, and the verdict as a list."""
        judged = self._judged() if self.is_complete else None
        said = () if judged is None else judged.statements()
        words = {**WORDS, "note": "note"}
        items = (
            f"<li>{words[one.status]}: <b>{escape(one.title)}.</b> {escape(one.text)}</li>" for one in said
        )
        return f"{super()._repr_html_()}<ul>{''.join(items)}</ul>" if said else super()._repr_html_()

    # ------------------------------------------------------------------ on disk

    def write(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the run to a folder, whole or not at all.

        Parameters
        ----------
        folder
            Gets ``adata.h5ad``, ``model/``, ``metrics.json``, ``run.json`` and ``history.csv``.
        force
            Replace an earlier run in it.

        Raises
        ------
        OutputError
            If the folder cannot be written.
        """
        with io.exclusive(folder), io.output_directory(folder, force) as temporary:
            self.write_into(temporary)
        self.folder = Path(folder)

    def write_into(self, folder: Path) -> None:
        """Write the files of the run into a folder that exists."""
        try:
            self.model.save(str(folder / "model"), save_anndata=False)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  # data and metrics of hours of training are kept
            io.remove(folder / "model")
            said = f"The model was not written ({type(error).__name__}: {error}); data and metrics are."
            warnings.warn(said, IsoviWarning, stacklevel=2)
        self.history.to_csv(folder / "history.csv")
        io.write_atomic(self._on_disk(), folder / "adata.h5ad")
        self._write_record(folder)

    def rewrite(self) -> None:
        """Write domains and metrics, which were made after the run was written, into its folder.

        Raises
        ------
        OutputError
            If they cannot be written; the folder is as it was.
        """
        assert self.folder is not None, "the run was written"
        with io.revised_directory(self.folder) as folder:
            io.write_obs(self._on_disk(), folder / "adata.h5ad")
            self._write_record(folder)

    def _on_disk(self) -> AnnData:
        """The data as it is written: that of a packed store without counts, in the order of the input."""
        return pack.in_input_order(self.adata) if pack.is_on_disk(self.adata.X) else self.adata

    def _write_record(self, folder: Path) -> None:
        io.write_json(folder / "metrics.json", self.metrics)
        record = {
            "schema": SCHEMA,
            "id": self.id,
            "settings": self.settings.as_data(),
            "provenance": as_data(self.provenance),
            "training": self.training,
        }
        self.checksums = _run_files.seal(folder, record)

    @classmethod
    def read(cls, folder: str | Path, *, trust: bool = False) -> Run:
        """Read a run that :meth:`write` or ``isovi fit`` wrote; 0.1.0's as well. Nothing in it is executed.

        Parameters
        ----------
        folder
            The folder.
        trust
            Let its model be a pickle that executes code, as that of 0.1.0 can be; only for a folder of your
            own, or from someone whom you trust.

        Raises
        ------
        InputError
            If the folder holds no run that can be read.
        """
        folder = Path(folder)
        file = folder / io.RUN_FILE
        record = _run_files.read_json(file)
        if "schema" not in record and "arguments" in record:
            with _run_files.readable(file):
                record = _from_0_1(record)
        checksums: dict[str, str] = {}
        if "tried" in record:
            raise InputError(
                f'"{folder}" is the result of a search.',
                "A run is the result of a fit.",
                "Fit with the settings that the search recommends, and name the folder of that run.",
            )
        if record.get("schema") == SCHEMA:
            checksums = _run_files.checksums(record, file)
            _run_files.require_intact(folder, checksums, "metrics.json", "history.csv")
        elif record.get("schema") != FIRST_SCHEMA:
            raise InputError(
                f"The run in {folder} has schema {record.get('schema')}.",
                f"This version of isoVI reads schemas {FIRST_SCHEMA} to {SCHEMA}, and the runs of 0.1.0.",
                "Read it with the version of isoVI that wrote it, or fit again.",
            )
        _run_files.require_record(record, file)
        metrics = _run_files.read_json(folder / "metrics.json")
        metrics = _metrics_from_0_1(metrics) if record["id"] == LEGACY else metrics
        history = folder / "history.csv"
        with _run_files.usable(file):
            settings, provenance = Settings.from_data(record["settings"]), _provenance(record["provenance"])
        return cls(
            settings=settings,
            metrics=_run_files.metrics_of(metrics, folder / "metrics.json"),
            provenance=provenance,
            history=_run_files.read_history(history) if history.is_file() else pd.DataFrame(),
            training=record["training"],
            id=record["id"],
            folder=folder,
            trust=trust,
            checksums=checksums,
        )

    def require_intact(self) -> None:
        """Refuse a folder in which data or model are missing or damaged.

        Raises
        ------
        InputError
            For the first such file.
        """
        for name in ("adata.h5ad", "model"):  # the others are read with the run
            self._file(name)

    def _file(self, name: str) -> Path:
        """A file of the run, or a folder of files, as it was written."""
        if self.folder is None or not (self.folder / name).exists():
            raise _run_files.missing(self.folder, name)
        file = self.folder / name
        if not self.trust and not file.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(
                f'"{file}" is a link to "{file.resolve()}".',
                "Nothing outside the folder of a run is read.",
                "Copy it there, or pass trust=True if you trust where the folder comes from.",
            )
        _run_files.require_intact(self.folder, self.checksums, name)
        return file


def _provenance(data: Mapping[str, Any]) -> Provenance:
    """The record; a time that is not known is NaN, which JSON has as null, and a tuple is a list there."""
    known = {name: value for name, value in data.items() if name != "seconds" or value is not None}
    known["notes"] = tuple(known.get("notes", ()))
    return from_data({**known, "kind": "Provenance"}, [Provenance])


def _without_none(data: Any) -> Any:
    """The same without what is ``None``, which AnnData files of some versions cannot hold."""
    if not isinstance(data, dict):
        return data
    return {name: _without_none(value) for name, value in data.items() if value is not None}


# ---------------------------------------------------------------------------- runs of 0.1.0


def _from_0_1(record: dict[str, Any]) -> dict[str, Any]:
    """``run.json`` as the first schema had it.

    0.1.0 kept distortion and pairs as text. Its command line set nothing but the target or weight, which the
    text has; whatever else Python's caller may have set is the default now.
    """
    old = record["arguments"]
    taken = {one.name for one in fields(Settings)} - {"distortion", "pairs"}
    settings = {name: value for name, value in old.items() if name in taken}
    word, _, number = str(old["distortion"]).partition(" ")
    distortion = {"constraint": Constraint, "penalty": Penalty, "none": Penalty}[word](float(number or 0))
    pairs = _pairs_0_1(ast.parse(old["pairs"], mode="eval").body)
    return {
        "schema": FIRST_SCHEMA,
        "id": LEGACY,
        "settings": {**settings, "distortion": as_data(distortion), "pairs": pairs},
        "provenance": {
            "sha256": record["input_sha256"],
            "source": {"path": old["input"]},
            "call": record["command"],
            **{name: record[name] for name in ("seconds", "peak_memory_mb", "versions", "platform")},
        },
        "training": {"summary": record["summary"]},
    }


def _metrics_from_0_1(metrics: dict[str, Any]) -> dict[str, Any]:
    """``metrics.json`` as this version writes it."""
    kept = {name: value for name, value in metrics.items() if name not in ("distortion", "backbone", "seed")}
    return kept | {"certificate": kept.pop("guarantee", {})}


def _pairs_0_1(node: Any) -> Any:
    """Plain data of a kind of pairs from its repr, such as ``Neighbors(k=6)``."""
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    return {"kind": node.func.id} | {one.arg: _pairs_0_1(one.value) for one in node.keywords}  # type: ignore[attr-defined]
