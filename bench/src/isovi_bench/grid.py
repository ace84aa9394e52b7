"""A comparison as one YAML file, checked before anything runs, and its jobs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from isovi.data import io
from isovi.errors import InputError
from isovi_bench.datasets import DataSet, Facts
from isovi_bench.job import ALL, MOLECULES, Job, canonical
from isovi_bench.measure import FURTHER, METRIC_NAMES
from isovi_bench.task import METHODS, find

WHOLE = ("section", "donor")  # splits that stand for one job per section or donor
OWN = ("isovi_bench.methods", "isovi_bench.peers")  # modules that register the methods of this package
MOST = 0.9  # of the spots that may be held out


class MethodEntry(BaseModel):
    """A method with settings.

    Attributes
    ----------
    name
        As it was registered.
    variant
        Its name in tables, the method's by default.
    settings
        Passed to the adapter.
    seeds
        Instead of the grid's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    variant: str = ""
    settings: dict[str, Any] = {}
    seeds: tuple[NonNegativeInt, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def shown(self) -> str:
        """Its name in tables."""
        return self.variant or self.name


def _split(value: Any) -> str:
    """A split, a share as text without trailing zeros."""
    kind, _, name = str(value).partition(":")
    if value == ALL or (kind in WHOLE and (name or value == kind)):
        return str(value)
    try:
        share = float(name if kind == MOLECULES else value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 < share <= MOST:
        raise ValueError(
            f"a split is all, a share of spots up to {MOST:g}, section, section:NAME, donor, donor:NAME, or "
            "molecules: with a share, such as molecules:0.1"
        )
    return f"{MOLECULES}:{share:g}" if kind == MOLECULES else f"{share:g}"


Split = Annotated[str, BeforeValidator(_split)]


class Grid(BaseModel):
    """What a comparison runs: every data set with every method, seed and split.

    Attributes
    ----------
    datasets, methods
        At least one of each.
    seeds
        Trials.
    splits
        ``all`` spots, a share to hold out, ``section`` or ``donor`` (each in turn), ``section:NAME`` or
        ``donor:NAME``; ``molecules:SHARE`` holds out molecules of every spot.
    shuffled
        Whether methods that see positions are also run with these shuffled; or the seeds for which.
    max_epochs
        At most; each method's own default if not given.
    n_top_genes
        Genes chosen on training spots; 0 for all.
    metrics
        Which to compute: those of :data:`isovi_bench.measure.METRIC_NAMES` by default, not those of
        :data:`isovi_bench.measure.FURTHER`.
    adapters
        Python files or modules that register further methods.
    keep_latents
        Whether each job's latent is stored beside its metrics.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: tuple[DataSet, ...] = Field(min_length=1)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    splits: tuple[Split, ...] = Field(("0.25",), min_length=1)
    shuffled: bool | tuple[NonNegativeInt, ...] = False
    max_epochs: PositiveInt | None = None
    n_top_genes: NonNegativeInt = 2000
    metrics: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    keep_latents: bool = True

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(metrics) - {*METRIC_NAMES, *FURTHER}):
            raise ValueError(f"{', '.join(unknown)}: the metrics are {', '.join((*METRIC_NAMES, *FURTHER))}")
        return metrics

    @model_validator(mode="after")
    def _names_differ(self) -> Grid:
        _require_different("data sets", [dataset.name for dataset in self.datasets])
        _require_different("methods", [entry.shown for entry in self.methods])
        return self

    def is_shuffled(self, seed: int) -> bool:
        """Whether the control runs for a seed."""
        return self.shuffled if isinstance(self.shuffled, bool) else seed in self.shuffled

    def placed(self, folder: Path, data: Path | None, cache: Path) -> Grid:
        """The same with absolute paths and downloads done.

        Parameters
        ----------
        folder
            Of the YAML file: adapters, and data sets without `data`, are relative to it.
        data
            What paths of data sets are relative to.
        cache
            Where downloads are kept.
        """
        datasets = tuple(dataset.placed(data or folder, cache) for dataset in self.datasets)
        adapters = tuple(
            str((folder / adapter).resolve()) if adapter.endswith(".py") else adapter
            for adapter in self.adapters
        )
        return self.model_copy(update={"datasets": datasets, "adapters": adapters})


def _require_different(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} differ in their names, but {', '.join(twice)} is there more than once")


# ---------------------------------------------------------------------------- reading


def read_grid(path: Path) -> Grid:
    """Read a grid from a YAML file.

    Raises
    ------
    InputError
        If the file is missing, is no YAML, or a key is wrong: the message names the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f'"{path}" could not be read ({error}).', "A grid is a YAML file.", "Name one."
        ) from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise InputError(
            f'"{path}" is not YAML ({where}).', "A grid is a YAML file.", "Correct it."
        ) from None
    return parse_grid(content, str(path))


def parse_grid(content: Any, source: str) -> Grid:
    """A grid from what its YAML says.

    Parameters
    ----------
    content
        A mapping of its keys.
    source
        Where it is from, for messages.

    Raises
    ------
    InputError
        If a key is wrong.
    """
    try:
        return Grid.model_validate(content)
    except ValidationError as error:
        raise _refusal(error, source) from None


def _refusal(error: ValidationError, source: str) -> InputError:
    """The first thing that is wrong, and how many more there are."""
    first, *others = error.errors()
    others = [other for other in others if other["type"] != "too_short"]  # what follows from the first
    path = [str(part) for part in first["loc"]]
    models: dict[str, type[BaseModel]] = {"datasets": DataSet, "methods": MethodEntry}
    model = models.get(path[0] if len(path) > 1 else "", Grid)
    key = ".".join(path) or "the grid"
    more = f" (More errors: {len(others)}.)" if others else ""
    keys = f"The keys are {', '.join(model.model_fields)}."
    if first["type"] == "missing":
        return InputError(f"{source} lacks {key}.", f"It is required.{more}", f"Add it. {keys}")
    if first["type"] == "extra_forbidden":
        return InputError(
            f"{source} has the key {key}.", f"{keys}{more}", "Correct its spelling, or drop it."
        )
    rule = first["msg"].removeprefix("Value error, ")
    received = first["input"]
    shown = f" is {received!r}" if not isinstance(received, dict | BaseModel) else " cannot be used"
    return InputError(
        f"{source}: {key}{shown}.",
        f"{rule[0].upper()}{rule[1:]}.{more}",
        f"Correct {key} in the grid.",
    )


# ---------------------------------------------------------------------------- adapters


def make_known(adapters: tuple[str, ...]) -> dict[str, str]:
    """Import the methods of this package and of a grid's adapters.

    Parameters
    ----------
    adapters
        Paths of Python files (absolute), or names of modules.

    Returns
    -------
    Digest of its file for each method that an adapter registers.

    Raises
    ------
    InputError
        If one cannot be imported, or registers no method.
    """
    for own in OWN:
        importlib.import_module(own)
    digests: dict[str, str] = {}
    for adapter in adapters:
        module = _imported(adapter)
        names = [
            name for name, made in METHODS.items() if getattr(made.fit, "__module__", "") == module.__name__
        ]
        if not names:
            raise InputError(
                f"The adapter {adapter} registers no method.",
                "A method is a function under @isovi_bench.task.method(name).",
                "Decorate it.",
            )
        digests.update(dict.fromkeys(names, io.sha256(str(module.__file__))))
    return digests


def _imported(adapter: str) -> ModuleType:
    name = f"isovi_adapter_{Path(adapter).stem}" if adapter.endswith(".py") else adapter
    try:
        if not adapter.endswith(".py"):
            return importlib.import_module(name)
        if name in sys.modules and sys.modules[name].__file__ == adapter:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, adapter)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        sys.modules[name] = module
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:
        sys.modules.pop(name, None)
        raise InputError(
            f"The adapter {adapter} could not be imported ({type(error).__name__}: {error}).",
            "It is a Python file, or the name of a module that can be imported.",
            "Correct it, or name another under adapters.",
        ) from error
    return module


# ---------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class LeftOut:
    """Cells of the grid that are no jobs.

    Attributes
    ----------
    what
        Names of method or data set, and split.
    why
        In a few words.
    """

    what: str
    why: str


def jobs_of(
    grid: Grid, facts: Mapping[str, Facts], digests: Mapping[str, str]
) -> tuple[list[Job], list[LeftOut]]:
    """The jobs of a grid, in the order in which they run, and what is left out.

    Trials come first: all of the first seed are run before any of the second; within it small data sets
    come before large ones.

    Parameters
    ----------
    grid
        Placed.
    facts
        Of each data set, by name.
    digests
        Of methods from adapters; see :func:`make_known`.

    Raises
    ------
    InputError
        If a method is not known, or two cells are the same job.
    """
    left_out: list[LeftOut] = []
    jobs: list[Job] = []
    for dataset in grid.datasets:
        of = facts[dataset.name]
        for split in _splits(grid, dataset, of, left_out):
            for entry in grid.methods:
                jobs += _trials(grid, dataset, of, split, entry, digests)
    left_out += _without_control(grid)
    _require_distinct(jobs)
    return sorted(jobs, key=lambda job: (job.seed, job.shuffled, job.n_obs)), left_out


def _splits(grid: Grid, dataset: DataSet, facts: Facts, left_out: list[LeftOut]) -> list[str]:
    found: list[str] = []
    names = {"section": facts.sections, "donor": facts.donors}
    for split in grid.splits:
        kind, _, name = split.partition(":")
        if kind not in WHOLE:
            found.append(split)
        elif len(names[kind]) < 2:
            left_out.append(LeftOut(f"{dataset.name}, split {split}", f"it has fewer than two {kind}s"))
        elif name and name not in names[kind]:
            left_out.append(LeftOut(f"{dataset.name}, split {split}", f"it has no such {kind}"))
        else:
            found += [split] if name else [f"{kind}:{one}" for one in names[kind]]
    return list(dict.fromkeys(found))


def _trials(
    grid: Grid, dataset: DataSet, facts: Facts, split: str, entry: MethodEntry, digests: Mapping[str, str]
) -> list[Job]:
    sees = find(entry.name).sees_positions
    return [
        Job(
            dataset=dataset,
            digest=facts.digest,
            n_obs=facts.n_obs,
            method=entry.name,
            variant=entry.shown,
            settings=canonical(entry.settings),
            seed=seed,
            split=split,
            shuffled=shuffled,
            n_top_genes=grid.n_top_genes,
            max_epochs=grid.max_epochs,
            metrics=grid.metrics,
            adapters=grid.adapters,
            adapter_digest=digests.get(entry.name, ""),
        )
        for seed in (grid.seeds if entry.seeds is None else entry.seeds)
        for shuffled in ((False, True) if sees and grid.is_shuffled(seed) else (False,))
    ]


def _without_control(grid: Grid) -> list[LeftOut]:
    blind = [entry.shown for entry in grid.methods if not find(entry.name).sees_positions]
    if not grid.shuffled or not blind:
        return []
    return [LeftOut(f"{', '.join(blind)}, shuffled", "they see no positions")]


def _require_distinct(jobs: list[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        if (first := seen.setdefault(job.key, job)) is not job:
            raise InputError(
                f"The grid has the same job twice: {first.label}; {job.label}.",
                "Jobs differ in data, method, settings, split or seed, not in name only.",
                "Drop one of them.",
            )
