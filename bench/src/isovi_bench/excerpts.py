"""Tables of the documentation that are made from published results, and marks on those that are not.

A page has blocks between comments. What is between them is written by :func:`fill`, so a page whose results,
methods or tables have changed differs from what it would be now, and the tests fail::

    <!-- table: NAME -->
    (a table of TABLES)
    <!-- end -->

    <!-- kept: METHOD VERSION -->  (or: <!-- kept: once -->)
    (a sentence: the table below was made by that version, or measured once, and its raw results are gone)
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from isovi.errors import InputError
from isovi_bench import results, tasks
from isovi_bench.compare import by_dataset, changes
from isovi_bench.job import CHANGES, version_of
from isovi_bench.metrics import METRICS
from isovi_bench.rendering import markdown, mean_sd, number, percent, signed
from isovi_bench.results import APART

PUBLISHED = Path("_static") / "benchmarks"  # relative to a page
NAMES = {
    "pca": "PCA",
    "scvi-default": "scVI",
    "scvi": "the same network, no term",
    "isoscvi": "isoVI",
    "isoscvi-whole": "isoVI, all dimensions",
    "novosparc": "novoSpaRc",
    "celery": "CeLEry",
    "tangram": "Tangram",
    "moscot": "moscot",
    "coordinates": "coordinates alone",
    "mean-profile": "mean profile",
    "scvi-default-batch": "scVI",
    "scvi-batch": "the same network, no term",
    "harmony": "Harmony",
    "banksy": "BANKSY",
    "cellcharter": "CellCharter",
    "graphpca": "GraphPCA",
    "graphst": "GraphST",
    "spagcn": "SpaGCN",
    "stagate": "STAGATE",
    "nichepca": "NichePCA",
    "novae": "Novae",
    "resolvi": "resolVI",
    "scviva": "scVIVA",
    "smoother": "Smoother",
    "spaceflow": "SpaceFlow",
}
"""What pages call the variants."""

SEVEN = ("her2st_H1", "her2st_G2", "her2st_D1", "dlpfc_151673", "hippo_1", "starmap_BZ5", "seqfish_e1z2")
"""Sections of grids/quality.yaml; decisions were made on all of them."""

Column = tuple[str, str]  # a set of spots and a metric
COORDINATES: Column = ("heldout", "coordinate_error")
RECONSTRUCTION: Column = ("heldout", "reconstruction")
L: Column = ("heldout", "distortion_constant")
SPEARMAN: Column = ("heldout", "spearman_distance")
MSE: Column = ("heldout", "mse_lognorm")
MORAN: Column = ("all", "morans_i")
NMI: Column = ("heldout", "nmi_leiden")
LABELS: Column = ("heldout", "label_accuracy")
PLACED: Column = ("heldout", "placed_error")

_BLOCK = re.compile(r"<!-- (table|kept): ([^\n]+) -->\n.*?<!-- end -->", re.DOTALL)
_TIMED = re.compile(r"<!-- (\w+): begin -->\n.*?<!-- \1: end -->", re.DOTALL)  # written by isovi-bench time
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_MEASURED = re.compile(r"\|[^|\n]*\.\d")  # a cell with decimals
ONCE = "once"  # the mark of measurements that no version of a method's results decides
_RULE = 2  # lines of a table above its body


def title(column: Column) -> str:
    """A metric as the head of a column."""
    spots, metric = column
    return METRICS[metric].title + (", all spots" if spots == "all" else "")


# ---------------------------------------------------------------------------- pages


def fill(text: str, published: Path) -> str:
    """A page with its blocks as they are to be now.

    Parameters
    ----------
    text
        Of the page.
    published
        Folder of the published results.

    Raises
    ------
    InputError
        If a block names no table, or no version of a method.
    """

    def block(match: re.Match[str]) -> str:
        made = _made(match[2], published) if match[1] == "table" else _kept(match[2])
        return f"<!-- {match[1]}: {match[2]} -->\n{made}\n<!-- end -->"

    return _BLOCK.sub(block, text)


def write(pages: list[Path]) -> list[Path]:
    """Fill the blocks of pages in place.

    Parameters
    ----------
    pages
        Markdown files; the published results lie in ``_static/benchmarks`` beside each.

    Returns
    -------
    Those that changed.
    """
    changed = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        filled = fill(text, page.parent / PUBLISHED)
        if filled != text:
            page.write_text(filled, encoding="utf-8")
            changed.append(page)
    return changed


def unmarked(text: str) -> list[str]:
    """First lines of the tables of measured numbers that no block makes or marks.

    Parameters
    ----------
    text
        Of a page. A mark counts for the table that follows it.
    """
    rest = _BLOCK.sub(lambda match: "@" if match[1] == "kept" else "", _TIMED.sub("", text))
    found = []
    for match in _TABLE.finditer(rest):
        body = "\n".join(match[0].splitlines()[_RULE:])
        before = rest[: match.start()]
        marked = before.rfind("@") > before.rfind("\n|")
        if _MEASURED.search(body) and not marked:
            found.append(match[0].splitlines()[0])
    return found


def _kept(spec: str) -> str:
    if spec == ONCE:
        return "*Measured once; the raw results were not kept.*"
    method, _, version = spec.partition(" ")
    now = version_of(method)
    if not version.isdecimal() or not 1 <= int(version) <= now:
        raise InputError(
            f'A page has the mark "kept: {spec}".',
            f'It is "{ONCE}", or names a method and a version of its results, 1 to {now} of {method}.',
            "Correct the mark.",
        )
    return f"*{_of(int(version), now)} Its raw results were not kept.*"


def _of(version: int, now: int) -> str:
    """Which version made a table, and what came since."""
    if version == now:
        return f"Made by version {version} of isoVI's results, the present one."
    since = "; ".join(CHANGES[later] for later in range(version + 1, now + 1))
    return f"Made by version {version} of isoVI's results. It is {now} now: {since}."


def _made(name: str, published: Path) -> str:
    if name not in TABLES:
        raise InputError(
            f'A page asks for the table "{name}".',
            f"The tables are {', '.join(TABLES)}.",
            "Correct its name.",
        )
    kind, make = TABLES[name]
    found = results.measured(results.conform(pd.read_parquet(published / results.FILE)))
    table = make(found[found["kind"] == kind] if kind else found)
    ours = found.loc[(found["method"] == "isoscvi") & found["variant"].isin(NAMES), "version"]
    made = "" if ours.empty else f"{_of(int(ours.max()), version_of('isoscvi'))} "
    return f"{markdown(table)}\n\n*{made}From [{results.FILE}](_static/benchmarks/{results.FILE}).*"


# ---------------------------------------------------------------------------- tables


def ratios(
    found: pd.DataFrame,
    base: str,
    variants: tuple[str, ...],
    columns: tuple[Column, ...],
    datasets: tuple[str, ...] = SEVEN,
) -> pd.DataFrame:
    """Mean change of each variant from a base over data sets, paired by split and seed.

    Parameters
    ----------
    found
        Measured metrics.
    base
        Label of the variant to compare with.
    variants, columns
        Rows and columns.
    datasets
        Over which the mean is taken.

    Returns
    -------
    Text: relative changes in per cent, others as differences, with the number of data sets.
    """
    there = found[found["dataset"].isin(datasets) & found["label"].isin([base, *variants])]
    cells = by_dataset(changes(there, base))
    rows = []
    for name in variants:
        own = {
            column: cells[
                (cells["label"] == name) & (cells["set"] == column[0]) & (cells["metric"] == column[1])
            ]
            for column in columns
        }
        rows.append(
            {f"to {NAMES[base]}": NAMES[name]}
            | {title(column): _change(column, part) for column, part in own.items()}
            | {"sections": str(max(len(part) for part in own.values()))}
        )
    return pd.DataFrame(rows)


def _change(column: Column, part: pd.DataFrame) -> str:
    if part.empty:
        return "-"
    as_text = percent if METRICS[column[1]].relative else signed
    return as_text(float(part["change"].mean()))


def each(
    found: pd.DataFrame,
    variants: tuple[str, ...],
    columns: tuple[Column, ...],
    datasets: tuple[str, ...] = SEVEN,
    seeds: tuple[int, ...] = (),
) -> pd.DataFrame:
    """Mean (standard deviation) over trials of each variant on each data set.

    Parameters
    ----------
    found
        Measured metrics.
    variants, datasets
        Labels and data sets, a row for each pair.
    columns
        Sets of spots and metrics.
    seeds
        Only these trials; all by default.
    """
    there = found[found["seed"].isin(seeds)] if seeds else found
    key = ["dataset", "label", "set", "metric"]
    cells = there.groupby(key)["value"].agg(["mean", "std", "size"])
    rows = []
    for dataset in datasets:
        for name in variants:
            at = {column: (dataset, name, *column) for column in columns}
            if any(place in cells.index for place in at.values()):
                shown = {title(column): _cell(cells, place) for column, place in at.items()}
                variant = NAMES[name.removesuffix(", shuffled")]
                told = f"{variant}, positions shuffled" if name.endswith("shuffled") else variant
                rows.append({"section": dataset, "method": told} | shown)
    return pd.DataFrame(rows)


def _cell(cells: pd.DataFrame, place: tuple[str, str, str, str]) -> str:
    if place not in cells.index:
        return "-"
    mean, sd, n = cells.loc[place]
    return number(mean) if n < 2 else mean_sd(float(mean), float(sd), int(n))


def parts(found: pd.DataFrame) -> pd.DataFrame:
    """A latent in two parts and the whole one, on sections that decisions were made on and on the others."""
    variants = ("scvi", "isoscvi-whole", "isoscvi")
    groups = {"decided on": SEVEN, "took no part": APART}
    against = (
        ("scvi-default", (COORDINATES, RECONSTRUCTION)),
        ("scvi", (RECONSTRUCTION, L, SPEARMAN, NMI, LABELS)),
    )
    return pd.concat(
        [_beside(found, variants, against, what, names) for what, names in groups.items()], ignore_index=True
    )


def _beside(
    found: pd.DataFrame,
    variants: tuple[str, ...],
    against: tuple[tuple[str, tuple[Column, ...]], ...],
    what: str,
    datasets: tuple[str, ...],
) -> pd.DataFrame:
    """Changes from several bases in one table, on the data sets that have every variant."""
    counted = found[found["dataset"].isin(datasets)].groupby("dataset")["label"].agg(set)
    wanted = {*variants, *(base for base, _ in against)}
    complete = tuple(name for name, labels in counted.items() if wanted <= labels)
    tables = [ratios(found, base, variants, columns, complete) for base, columns in against]
    there = found[found["dataset"].isin(complete)].groupby("label")["seed"].nunique()
    table = pd.DataFrame({"sections": f"{what}: {len(complete)}", "method": tables[0].iloc[:, 0]})
    table["seeds"] = [str(there[name]) for name in variants]
    for (base, _), made in zip(against, tables, strict=True):
        for column in made.columns[1:-1]:
            table[f"{column}, to {NAMES[base]}"] = made[column]
    return table


def placed(found: pd.DataFrame, datasets: tuple[str, ...]) -> pd.DataFrame:
    """Errors of the positions of held-out spots, by method and data set.

    Parameters
    ----------
    found
        Measured metrics.
    datasets
        Columns, as far as they were run.

    Returns
    -------
    Median errors in spacings, means over seeds: of regression on the ten nearest in the latent
    representation, where there is one, and of each method's own last step; and the mean ratio of each to the
    former of scVI, paired by data set and seed, with the number of data sets that it is the mean of.
    """
    there = found[found["dataset"].isin(datasets) & (found["set"] == "heldout") & ~found["shuffled"]]
    values = there.pivot_table(index=["variant", "metric"], columns=["dataset", "seed"], values="value")
    values = values[[name for name in datasets if name in values]]
    base = values.loc[("scvi-default", COORDINATES[1])]
    rows = []
    for (_, metric), how in ((COORDINATES, "10 nearest"), (PLACED, "placed")):
        for name in [name for name in NAMES if (name, metric) in values.index]:
            own, ratio = (
                row.groupby("dataset", sort=False).mean()
                for row in (values.loc[(name, metric)], values.loc[(name, metric)] / base)
            )
            shown = {key: number(float(value)) for key, value in own.items()}
            to_base = {"to scVI": number(float(ratio.mean())), "sections": str(ratio.count())}
            rows.append({"method": f"{NAMES[name]}, {how}"} | shown | to_base)
    return pd.DataFrame(rows)


def means(found: pd.DataFrame, columns: tuple[Column, ...]) -> pd.DataFrame:
    """Mean of each method over the data sets that decisions were made on.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    columns
        Sets of spots and metrics.

    Returns
    -------
    Text, with the number of data sets: those of :func:`isovi_bench.tasks.complete`.
    """
    there = found[~found["dataset"].isin(APART) & ~found["shuffled"]]
    made = {}
    for column in columns:
        rows = there[(there["set"] == column[0]) & (there["metric"] == column[1])]
        wide = tasks.complete(rows)
        made[title(column)] = wide.mean().map(number)
        made["data sets"] = pd.Series(str(len(wide)), wide.columns)  # alike for all metrics of a task
    table = pd.DataFrame(made).fillna("-")
    table = table.loc[results.ordered(table.index), [*map(title, columns), "data sets"]]
    return table.rename(index=NAMES).rename_axis(index="method").reset_index()


def best(found: pd.DataFrame) -> pd.DataFrame:
    """Who is best at what: the first table of the page of benchmarks."""
    return tasks.screens(found)[0].shown


def jobs(found: pd.DataFrame) -> pd.DataFrame:
    """Which jobs of some results are done: methods and data sets by kind of split."""
    done = found.drop_duplicates("job")
    return pd.DataFrame(
        {
            "split": results.KINDS[str(kind)],
            "methods": ", ".join(results.ordered(set(part["variant"]))),
            "data sets": ", ".join(sorted(set(part["dataset"]))),
            "jobs": str(len(part)),
        }
        for kind, part in done.groupby("kind")
    )


_MAIN = ("pca", "scvi-default", "scvi", "isoscvi")
_CHECKED = ("her2st_H1", "her2st_G2", "starmap_BZ5")
_SPOTS = "spots"  # the kind of split of most tables
_QUALITY = (COORDINATES, RECONSTRUCTION, MSE, MORAN)
_TRAINING = (("", "cpu_seconds"), ("", "epochs"), RECONSTRUCTION)
_GEOMETRY = (L, ("heldout", "certified_constant"), ("heldout", "anisotropy"), ("all", "anisotropy"))

TABLES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "quality, to scVI": (
        _SPOTS,
        partial(ratios, base="scvi-default", variants=("pca", "scvi", "isoscvi"), columns=_QUALITY),
    ),
    "quality, to the same network": (
        _SPOTS,
        partial(ratios, base="scvi", variants=("pca", "scvi-default", "isoscvi"), columns=_QUALITY),
    ),
    "quality, sections": (
        _SPOTS,
        partial(
            each,
            variants=_MAIN,
            columns=(
                *_QUALITY[:2],
                ("heldout", "relative_distortion"),
                SPEARMAN,
                *_QUALITY[2:],
                ("", "epochs"),
            ),
        ),
    ),
    "quality, shuffled": (
        _SPOTS,
        partial(
            each,
            variants=("scvi-default", "scvi", "isoscvi, shuffled", "isoscvi"),
            columns=(COORDINATES, SPEARMAN, ("heldout", "relative_distortion"), RECONSTRUCTION),
            datasets=_CHECKED,
            seeds=(0,),
        ),
    ),
    "quality, osmFISH": (
        _SPOTS,
        partial(
            each,
            variants=("scvi", "isoscvi"),
            columns=(COORDINATES, RECONSTRUCTION, ("heldout", "relative_distortion"), SPEARMAN),
            datasets=("osmfish",),
        ),
    ),
    "quality, parts": (_SPOTS, parts),
    "quality, apart": (
        _SPOTS,
        partial(each, variants=_MAIN, columns=(*_QUALITY[:2], L, SPEARMAN, LABELS, NMI), datasets=APART),
    ),
    "quality, training": (
        _SPOTS,
        partial(
            ratios,
            base="scvi-default",
            variants=("scvi", "isoscvi"),
            columns=_TRAINING,
            datasets=(*SEVEN, "osmfish"),
        ),
    ),
    "quality, training apart": (
        _SPOTS,
        partial(ratios, base="scvi-default", variants=("scvi", "isoscvi"), columns=_TRAINING, datasets=APART),
    ),
    "rerun, jobs": ("", jobs),
    "placement, sections": (_SPOTS, partial(placed, datasets=(*SEVEN, "osmfish"))),
    "placement, apart": (_SPOTS, partial(placed, datasets=APART)),
    "geometry, sections": (
        _SPOTS,
        partial(each, variants=("scvi", "isoscvi-whole", "isoscvi"), columns=_GEOMETRY),
    ),
    "geometry, to the same network": (
        _SPOTS,
        partial(ratios, base="scvi", variants=("isoscvi-whole", "isoscvi"), columns=_GEOMETRY),
    ),
    "comparison, tasks": ("", best),
    "comparison, domains": (
        "all",
        partial(
            means,
            columns=tuple(
                ("all", name) for name in ("ari_own", "nmi_own", "ari_leiden", "smoothness_own", "tiles_own")
            ),
        ),
    ),
    "comparison, integration": (
        "together",
        partial(means, columns=tuple(("all", name) for name in ("ilisi", "kbet", "clisi", "ari_own"))),
    ),
    "comparison, denoising": (
        "molecules",
        partial(means, columns=(("all", "molecule_loss"), ("all", "molecule_deviance"))),
    ),
    "comparison, to scVI": (
        _SPOTS,
        partial(
            ratios,
            base="scvi-default",
            variants=("pca", "scvi", "isoscvi"),
            columns=(COORDINATES, RECONSTRUCTION, MORAN),
        ),
    ),
    "comparison, to the same network": (
        _SPOTS,
        partial(ratios, base="scvi", variants=("isoscvi",), columns=(COORDINATES, L, RECONSTRUCTION, MSE)),
    ),
}
"""Tables by name: the kind of split, empty for all, and what makes the table from the measured metrics."""
