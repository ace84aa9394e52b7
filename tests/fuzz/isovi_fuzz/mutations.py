"""Small structural mutations of AnnData and its files, each a named function of a random generator.

``MEMORY`` changes an AnnData before it is written, ``STRUCTURE`` the elements of a written file (HDF5 or
zarr), ``BYTES`` the bytes of a file. A failure names the mutation and the seed, which repeat it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.random import Generator
from scipy import sparse

Mutation = Callable[[Generator, Any], Any]

MEMORY: list[Mutation] = []
STRUCTURE: list[Mutation] = []
BYTES: list[Mutation] = []

ODD_NAMES = (
    *("", " ", ".", "..", "A.1", "a/b", "a\\b", "/", "nan", "None", "0", "0.1", "-1", "True", "all", "*"),
    *("$\\frac{1$", "$x^2$", "_", "__class__", "__dict__", "_index", "index", "X", "obs", "train", "heldout"),
    *("\u202eright to left", "\u05d0\u05d1", "\u00e9\u0301", "\U0001f9e0", "\u65e5\u672c", "\ufeff"),
    *("[red]bold[/red]", "[/]", "\x1b[31m", "a\nb", "a\tb", "a,b", 'a"b', "a'b", "<script>", "&amp;"),
    *("{x}", "{", "%s", "%", "--force", "-x", "~", "#", "x" * 5000, "section:a", "a=b", "`a`"),
)


def keep(kind: list[Mutation]) -> Callable[[Mutation], Mutation]:
    """Add a mutation to a list."""

    def add(mutation: Mutation) -> Mutation:
        kind.append(mutation)
        return mutation

    return add


memory, structure, damaged_bytes = keep(MEMORY), keep(STRUCTURE), keep(BYTES)


def odd_names(rng: Generator, n: int) -> list[str]:
    """Different odd names."""
    chosen = [str(rng.choice(ODD_NAMES)) for _ in range(n)]
    return [name if name not in chosen[:i] else f"{name}{i}" for i, name in enumerate(chosen)]


def dense(adata: AnnData) -> np.ndarray:
    """Counts as a dense array of float64."""
    return np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X, dtype=np.float64)


def at(rng: Generator, shape: tuple[int, ...], share: float = 0.02) -> np.ndarray:
    """A mask with at least one entry."""
    mask = rng.random(shape) < share
    mask.flat[int(rng.integers(mask.size))] = True
    return mask


def stored(rng: Generator, values: np.ndarray) -> Any:
    """Dense, CSR or CSC."""
    form = rng.choice(["dense", "csr", "csc"])
    return values if form == "dense" else getattr(sparse, f"{form}_matrix")(values)


# ---------------------------------------------------------------------------- counts


@memory
def counts_of_another_type(rng: Generator, adata: AnnData) -> None:
    types = [
        "f8",
        "f2",
        "i1",
        "u1",
        "i2",
        "u2",
        "i4",
        "i8",
        "u8",
        "bool",
        "c8",
        "c16",
        "S3",
        "U3",
        ">f4",
        ">i4",
    ]
    adata.X = np.minimum(dense(adata), 100).astype(rng.choice(types))


@memory
def sparse_counts_of_another_type(rng: Generator, adata: AnnData) -> None:
    kind = rng.choice(["csr_matrix", "csc_matrix", "csr_array", "csc_array"])
    types = ["f8", "i1", "u1", "i2", "u2", "i4", "i8", "u8", "bool", "c8"]
    adata.X = getattr(sparse, kind)(np.minimum(dense(adata), 100).astype(rng.choice(types)))


@memory
def counts_that_are_no_counts(rng: Generator, adata: AnnData) -> None:
    values = dense(adata)
    values[at(rng, values.shape)] = rng.choice(
        [np.nan, np.inf, -np.inf, -1, 0.5, 1e-310, 5e-324, -0.0, 1e-45]
    )
    adata.X = stored(rng, values)


@memory
def huge_counts(rng: Generator, adata: AnnData) -> None:
    values = dense(adata)
    values[at(rng, values.shape)] = rng.choice([2.0**24, 2.0**31, 2.0**53, 1e12, 3e38, 1e39, 1e300])
    adata.X = stored(rng, values)


@memory
def huge_whole_counts(rng: Generator, adata: AnnData) -> None:
    values = dense(adata).astype(np.int64)
    values[at(rng, values.shape)] = rng.choice([2**31 - 1, 2**31, 2**40, 2**62])
    adata.X = stored(rng, values)


@memory
def noisy_counts(rng: Generator, adata: AnnData) -> None:
    values = dense(adata)
    adata.X = stored(rng, values + rng.choice([1e-12, 1e-7, 1e-3]) * rng.random(values.shape))


@memory
def normalised_counts(rng: Generator, adata: AnnData) -> None:
    values = np.log1p(dense(adata))
    adata.X = stored(rng, values - values.mean(axis=0) if rng.random() < 0.5 else values)


@memory
def equal_counts(rng: Generator, adata: AnnData) -> None:
    adata.X = stored(rng, np.full(adata.shape, float(rng.choice([0, 1, 7]))))


@memory
def equal_spots(rng: Generator, adata: AnnData) -> None:
    adata.X = stored(rng, np.tile(dense(adata)[:1] + 1, (adata.n_obs, 1)))


@memory
def empty_spots(rng: Generator, adata: AnnData) -> None:
    values = dense(adata)
    values[at(rng, (adata.n_obs,), rng.choice([0.02, 0.5, 0.97]))] = 0
    adata.X = stored(rng, values)


@memory
def empty_genes(rng: Generator, adata: AnnData) -> None:
    values = dense(adata)
    values[:, at(rng, (adata.n_vars,), rng.choice([0.02, 0.5, 0.97]))] = 0
    adata.X = stored(rng, values)


@memory
def one_count(rng: Generator, adata: AnnData) -> None:
    values = np.zeros(adata.shape)
    values[np.arange(adata.n_obs), rng.integers(adata.n_vars, size=adata.n_obs)] = 1
    adata.X = stored(rng, values)


@memory
def few_spots(rng: Generator, adata: AnnData) -> AnnData:
    return adata[: int(rng.integers(0, 16))].copy()


@memory
def few_genes(rng: Generator, adata: AnnData) -> AnnData:
    return adata[:, : int(rng.integers(0, 5))].copy()


@memory
def no_counts(rng: Generator, adata: AnnData) -> AnnData:
    layers = {"counts": adata.X} if rng.random() < 0.5 else {}
    return AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), layers=layers)


@memory
def odd_layers(rng: Generator, adata: AnnData) -> None:
    for name in odd_names(rng, 2):
        adata.layers[name.replace("/", "|")] = adata.X.copy()


@memory
def odd_raw(rng: Generator, adata: AnnData) -> None:
    raw = adata.copy()
    raw.var["_index" if rng.random() < 0.5 else "name"] = [f"g{i}" for i in range(adata.n_vars)]
    adata.raw = raw
    if rng.random() < 0.5:
        adata.X = np.log1p(dense(adata))


# ---------------------------------------------------------------------------- positions


@memory
def positions_of_another_type(rng: Generator, adata: AnnData) -> None:
    types = ["u1", "i1", "i2", "i4", "i8", "u8", "f2", "f4", "c8", "bool", "U8", "S8", ">f8"]
    values = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    with np.errstate(all="ignore"):
        adata.obsm["spatial"] = values.astype(rng.choice(types))


@memory
def positions_of_another_shape(rng: Generator, adata: AnnData) -> None:
    values, n = np.asarray(adata.obsm["spatial"]), adata.n_obs
    shapes = [
        values[:, :1],
        values[:, :0],
        np.hstack([values, values]),
        np.hstack([values, np.zeros((n, 1))]),
    ]
    shapes += [values[:, :, None], np.hstack([values, np.full((n, 1), np.nan)]), rng.random((n, 3))]
    adata.obsm["spatial"] = shapes[int(rng.integers(len(shapes)))]


@memory
def positions_that_are_no_numbers(rng: Generator, adata: AnnData) -> None:
    values = np.array(adata.obsm["spatial"], dtype=np.float64)
    values[at(rng, (adata.n_obs,), rng.choice([0.02, 0.5, 1]))] = rng.choice([np.nan, np.inf, -np.inf])
    adata.obsm["spatial"] = values


@memory
def positions_of_another_scale(rng: Generator, adata: AnnData) -> None:
    values = np.array(adata.obsm["spatial"], dtype=np.float64)
    factor = rng.choice([1e300, 1e306, 1e150, 1e30, 1e-30, 1e-150, 1e-300, 5e-324])
    with np.errstate(all="ignore"):
        adata.obsm["spatial"] = values * factor


@memory
def positions_far_from_zero(rng: Generator, adata: AnnData) -> None:
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"]) + rng.choice([1e6, 1e12, 1e16, 1e30])


@memory
def one_position_far_away(rng: Generator, adata: AnnData) -> None:
    values = np.array(adata.obsm["spatial"], dtype=np.float64)
    values[int(rng.integers(adata.n_obs))] = rng.choice([1e8, 1e20, 1e154, 1e308, -1e308])
    adata.obsm["spatial"] = values


@memory
def repeated_positions(rng: Generator, adata: AnnData) -> None:
    values = np.asarray(adata.obsm["spatial"])
    step = rng.choice([0, 3, 30, 60]) * 10.0
    adata.obsm["spatial"] = np.floor(values / step) if step else np.zeros_like(values)


@memory
def positions_on_a_line(rng: Generator, adata: AnnData) -> None:
    values = np.array(adata.obsm["spatial"], dtype=np.float64)
    values[:, 1] = rng.choice([0.0, 1.0, -3.0]) * values[:, 0]
    adata.obsm["spatial"] = values


@memory
def positions_as_a_table(rng: Generator, adata: AnnData) -> None:
    names = [["x", "y"], ["pxl_row", "pxl_col"], odd_names(rng, 2)][int(rng.integers(3))]
    names = [name.replace("/", "|") or "empty" for name in names]
    table = pd.DataFrame(np.asarray(adata.obsm["spatial"]), index=adata.obs_names, columns=names)
    if rng.random() < 0.4:
        table["name"] = "a"
    adata.obsm["spatial"] = table


@memory
def sparse_positions(_: Generator, adata: AnnData) -> None:
    adata.obsm["spatial"] = sparse.csr_matrix(adata.obsm["spatial"])


@memory
def no_positions(rng: Generator, adata: AnnData) -> None:
    values = adata.obsm.pop("spatial")
    if rng.random() < 0.5:
        adata.obs["x"], adata.obs["y"] = values[:, 0], values[:, 1]
    if rng.random() < 0.5:
        adata.obsm[str(rng.choice(["X_spatial", "Spatial", "spatial_fov", "$x"]))] = values


# ---------------------------------------------------------------------------- names


@memory
def repeated_names(rng: Generator, adata: AnnData) -> None:
    axis = rng.choice(["obs", "var"])
    names = list(getattr(adata, f"{axis}_names"))
    names[-1] = names[0]
    setattr(adata, f"{axis}_names", names)


@memory
def odd_cells_or_genes(rng: Generator, adata: AnnData) -> None:
    axis = rng.choice(["obs", "var"])
    names = list(getattr(adata, f"{axis}_names"))
    for i, name in enumerate(odd_names(rng, 8)):
        names[i] = name
    setattr(adata, f"{axis}_names", names)


@memory
def odd_columns(rng: Generator, adata: AnnData) -> None:
    for name in odd_names(rng, 4):
        adata.obs[name.replace("/", "|")] = np.arange(adata.n_obs)
        adata.var[name.replace("/", "|")] = "a"


@memory
def names_of_results(rng: Generator, adata: AnnData) -> None:
    """What isoVI itself writes is there already, of another shape."""
    n = adata.n_obs
    choices: list[tuple[Any, str, Any]] = [
        (adata.obs, "isovi_split", "train"),
        (adata.obs, "isovi_split", np.arange(n)),
        (adata.obs, "isovi_domain", pd.Categorical(["a"] * n)),
        (adata.obs, "isovi_row", np.arange(n)[::-1]),
        (adata.obs, "_scvi_batch", "a"),
        (adata.obs, "_scvi_labels", np.arange(n)),
        (adata.var, "isovi_gene", "no"),
        (adata.var, "isovi_gene", False),
        (adata.var, "highly_variable", True),
        (adata.obsm, "X_isovi", np.full((n, 2), np.nan)),
        (adata.uns, "isovi", "x"),
        (adata.uns, "isovi", {"id": 3}),
        (adata.uns, "isovi_pack", {"spatial_key": "x"}),
        (adata.uns, "isovi_input", "x"),
        (adata.uns, "isovi_input", {"kind": "x"}),
        (adata.uns, "isovi_input", {"unit": np.arange(3), "coordinate_system": {"a": 1}}),
        (adata.uns, "spatialdata_attrs", "x"),
        (adata.uns, "spatialdata_attrs", {"region": ["a", "b"], "region_key": "no", "instance_key": 1}),
        (adata.uns, "spatialdata_attrs", {"region": np.array([1, 2])}),
        (adata.uns, "_scvi_uuid", 3),
        (adata.uns, "log1p", {"base": "x"}),
        (adata.uns, "hvg", 3),
    ]
    place, name, value = choices[int(rng.integers(len(choices)))]
    place[name] = value


@memory
def odd_uns(rng: Generator, adata: AnnData) -> None:
    choices: list[Any] = [
        *(
            "x",
            3,
            np.float32("nan"),
            np.array(["a", "b"]),
            np.zeros((0, 3)),
            {},
            {"a": {}},
            {"a": {"b": {"c": "d"}}},
        ),
        *(
            {"lib": "x"},
            {"lib": {"scalefactors": 3}},
            {"lib": {"scalefactors": {}}},
            {"lib": {"images": {}}},
            True,
        ),
    ]
    name = ["spatial", "spatial", "isovi_x", "neighbors"][int(rng.integers(4))]
    adata.uns[name] = choices[int(rng.integers(len(choices)))]


@memory
def odd_pairs_and_embeddings(rng: Generator, adata: AnnData) -> None:
    n = adata.n_obs
    adata.obsp["connectivities"] = sparse.csr_matrix(
        rng.random((n, n)) < 0.05, dtype=rng.choice(["f4", "bool", "i8"])
    )
    adata.obsp["full"] = np.full((n, n), rng.choice([0.0, np.nan, -1.0]))
    adata.varm["loadings"] = np.full((adata.n_vars, 2), np.nan)
    adata.obsm["X_pca"] = np.full((n, 0), np.nan)


# ---------------------------------------------------------------------------- sections and labels


def column(rng: Generator, n: int) -> Any:
    """A column with two or three different values, of any type."""
    codes = rng.integers(0, rng.integers(1, 4), size=n)
    missing = np.where(rng.random(n) < 0.1, None, codes)
    choices: list[Any] = [
        pd.Categorical.from_codes(codes, categories=["a", "b", "c", "unused"]),
        pd.Categorical.from_codes(codes, categories=[3.5, 0.1, np.inf, 2]),
        pd.Categorical.from_codes(codes, categories=[10, 2, 33, 4]),
        pd.Categorical.from_codes(codes, categories=["c", "b", "a"], ordered=True),
        pd.Categorical.from_codes(np.where(codes == 1, -1, codes), categories=["a", "b", "c"]),
        pd.Categorical.from_codes((codes > 0).astype(int), categories=[False, True]),
        codes,
        codes.astype(np.uint8),
        codes / 10,
        np.where(codes == 1, np.nan, codes),
        np.where(codes == 1, np.inf, codes),
        codes.astype(np.float16),
        codes > 0,
        pd.array(missing, dtype="Int64"),
        pd.array(np.where(codes == 1, None, codes > 0), dtype="boolean"),
        pd.array(missing, dtype="Float64"),
        pd.array(np.array(["a", "b", "c"])[codes], dtype="string"),
        pd.array([None if one is None else "abc"[one] for one in missing], dtype="string"),
        np.array(["a", "b", ""])[codes],
        np.array(["a", "b", "nan"], dtype=object)[codes],
        np.full(n, np.nan),
        np.full(n, "", dtype=object),
        np.arange(n),
        np.array([f"s{i}" for i in range(n)]),
        [i if i % 2 else f"s{i}" for i in range(n)],  # mixed: AnnData in memory only
        pd.to_datetime("2024-01-01") + pd.to_timedelta(codes, unit="D"),  # likewise
        [None if i % 3 else "a" for i in range(n)],
        [b"a"] * n,
        codes + 1j,
    ]
    return choices[int(rng.integers(len(choices)))]


@memory
def sections_of_another_type(rng: Generator, adata: AnnData) -> None:
    adata.obs["section"] = column(rng, adata.n_obs)


@memory
def labels_of_another_type(rng: Generator, adata: AnnData) -> None:
    adata.obs["domain"] = column(rng, adata.n_obs)


@memory
def batches_of_another_type(rng: Generator, adata: AnnData) -> None:
    adata.obs["batch"] = column(rng, adata.n_obs)


@memory
def odd_sections(rng: Generator, adata: AnnData) -> None:
    adata.obs["section"] = np.array(odd_names(rng, 2), dtype=object)[np.arange(adata.n_obs) % 2]


@memory
def odd_labels(rng: Generator, adata: AnnData) -> None:
    names = odd_names(rng, 3)
    adata.obs["domain"] = pd.Categorical(
        np.array(names, dtype=object)[np.arange(adata.n_obs) % 3], categories=names
    )


@memory
def odd_batches(rng: Generator, adata: AnnData) -> None:
    adata.obs["batch"] = np.array(odd_names(rng, 2), dtype=object)[np.arange(adata.n_obs) % 2]


@memory
def tiny_sections(rng: Generator, adata: AnnData) -> None:
    size = int(rng.choice([1, 2, 3, 4, 5]))
    names = np.where(np.arange(adata.n_obs) < size, "tiny", "large")
    adata.obs["section"] = names if rng.random() < 0.5 else [f"s{i // size}" for i in range(adata.n_obs)]


@memory
def sections_of_one_position(rng: Generator, adata: AnnData) -> None:
    adata.obs["section"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    values = np.array(adata.obsm["spatial"], dtype=np.float64)
    values[::2] = rng.choice([0.0, 1e5])
    values[0] += rng.choice([0.0, 1e-9, 1.0])
    adata.obsm["spatial"] = values


# ---------------------------------------------------------------------------- elements of files

ENCODINGS = (
    "array",
    "csr_matrix",
    "csc_matrix",
    "dataframe",
    "dict",
    "categorical",
    "string",
    "string-array",
    "rec-array",
)
ENCODINGS += (
    "nullable-integer",
    "nullable-boolean",
    "null",
    "anndata",
    "raw",
    "awkward-array",
    "unknown",
    "",
)


def is_zarr(group: Any) -> bool:
    return not isinstance(group, h5py.Group)


def elements(group: Any, below: str = "") -> list[str]:
    """Paths of all groups and arrays below a group."""
    found: list[str] = []
    for name in sorted(group.keys()):
        path = f"{below}/{name}" if below else name
        found.append(path)
        if hasattr(group[name], "keys"):
            found += elements(group[name], path)
    return found


def arrays(group: Any) -> list[str]:
    return [path for path in elements(group) if not hasattr(group[path], "keys")]


def replace(group: Any, path: str, values: Any) -> None:
    """Another array in the place of an element, with its attributes."""
    kept = dict(group[path].attrs) if path in group else {}
    if path in group:
        del group[path]
    if is_zarr(group):
        made = group.create_array(path, data=np.atleast_1d(values))
    else:
        made = group.create_dataset(path, data=values)
    for name, value in kept.items():
        made.attrs[name] = value


def plain_sparse(group: Any) -> Any:
    """``X`` as CSR, whatever it was."""
    X = anndata.io.read_elem(group["X"])
    del group["X"]
    anndata.io.write_elem(group, "X", sparse.csr_matrix(X))
    return group["X"]


def part(rng: Generator) -> str:
    return str(rng.choice(["data", "indices", "indptr"]))


@structure
def wrong_pointers(rng: Generator, group: Any) -> None:
    X = plain_sparse(group)
    values = np.array(X["indptr"][...]).astype(np.int64)
    row = int(rng.integers(len(values)))
    changes = [-1, -(2**31), 10**12, values[-1] + 1, 0, 2**62]
    values[row] = changes[int(rng.integers(len(changes)))]
    replace(X, "indptr", values[::-1].copy() if rng.random() < 0.1 else values)


@structure
def wrong_indices(rng: Generator, group: Any) -> None:
    X = plain_sparse(group)
    values = np.array(X["indices"][...]).astype(np.int64)
    values[int(rng.integers(len(values)))] = rng.choice([-1, 10**6, 2**31, 2**62, -(2**62)])
    replace(X, "indices", values)


@structure
def indices_of_another_type(rng: Generator, group: Any) -> None:
    X, name = plain_sparse(group), str(rng.choice(["indices", "indptr"]))
    replace(
        X,
        name,
        np.array(X[name][...]).astype(rng.choice(["f8", "u1", "u4", "u8", "i1", "i2", "S4", "bool", ">i4"])),
    )


@structure
def a_part_cut_short(rng: Generator, group: Any) -> None:
    X, name = plain_sparse(group), part(rng)
    values = np.array(X[name][...])
    replace(X, name, values[: int(rng.choice([0, 1, len(values) // 2, len(values) - 1]))])


@structure
def a_part_too_long(rng: Generator, group: Any) -> None:
    X, name = plain_sparse(group), part(rng)
    values = np.array(X[name][...])
    replace(X, name, np.concatenate([values, values[-3:]]))


@structure
def a_part_of_another_shape(rng: Generator, group: Any) -> None:
    X, name = plain_sparse(group), part(rng)
    values = np.array(X[name][...])
    replace(X, name, values[:, None] if rng.random() < 0.5 else values[0])


@structure
def unsorted_or_repeated_indices(rng: Generator, group: Any) -> None:
    """Valid: scipy reads it."""
    X = plain_sparse(group)
    pointers, indices = np.array(X["indptr"][...]), np.array(X["indices"][...])
    for start, stop in pairwise(pointers):
        indices[start:stop] = indices[start:stop][::-1] if rng.random() < 0.5 else indices[start : start + 1]
    replace(X, "indices", indices)


@structure
def another_shape_attribute(rng: Generator, group: Any) -> None:
    X = plain_sparse(group)
    n, m = (int(one) for one in X.attrs["shape"])
    shapes: list[Any] = [
        [m, n],
        [n + 1, m],
        [n, m + 1],
        [n, m - 1],
        [-n, m],
        [0, 0],
        [n],
        [n, m, 1],
        [10**12, m],
    ]
    shapes += [[n, 10**12], [n + 0.5, m], "x", 3, [n - 1, m]]
    X.attrs["shape"] = shapes[int(rng.integers(len(shapes)))]


@structure
def rows_called_columns(rng: Generator, group: Any) -> None:
    plain_sparse(group).attrs["encoding-type"] = str(
        rng.choice(["csc_matrix", "array", "dict", "coo_matrix"])
    )


@structure
def another_encoding(rng: Generator, group: Any) -> None:
    path = rng.choice(elements(group))
    group[path].attrs["encoding-type"] = str(rng.choice(ENCODINGS))


@structure
def no_encoding(rng: Generator, group: Any) -> None:
    for path in rng.choice(elements(group), size=int(rng.integers(1, 6))):
        for name in ("encoding-type", "encoding-version"):
            if name in group[path].attrs:
                del group[path].attrs[name]


@structure
def another_version_of_the_encoding(rng: Generator, group: Any) -> None:
    group[rng.choice(elements(group))].attrs["encoding-version"] = str(
        rng.choice(["9.9.9", "0.0.1", "", "x"])
    )


@structure
def an_element_missing(rng: Generator, group: Any) -> None:
    del group[rng.choice(elements(group))]


@structure
def a_group_in_place_of_an_array(rng: Generator, group: Any) -> None:
    path = rng.choice(arrays(group))
    del group[path]
    group.create_group(path)


@structure
def an_array_in_place_of_a_group(rng: Generator, group: Any) -> None:
    path = rng.choice([path for path in elements(group) if hasattr(group[path], "keys")])
    del group[path]
    replace(group, path, np.arange(3))


@structure
def an_array_of_another_length(rng: Generator, group: Any) -> None:
    path = rng.choice(arrays(group))
    values = np.atleast_1d(np.array(group[path][...]))
    replace(
        group, path, values[: len(values) // 2] if rng.random() < 0.5 else np.concatenate([values, values])
    )


@structure
def an_array_of_another_type(rng: Generator, group: Any) -> None:
    path = rng.choice(arrays(group))
    values = np.atleast_1d(np.array(group[path][...]))
    try:
        other = values.astype(rng.choice(["f8", "i8", "u1", "bool", "c8", "S2", "f2"]))
    except ValueError:
        other = np.arange(len(values))
    replace(group, path, other)


@structure
def a_scalar_in_place_of_an_array(rng: Generator, group: Any) -> None:
    replace(group, rng.choice(arrays(group)), np.float64(rng.choice([0, 1, np.nan])))


@structure
def an_array_of_a_million_million_entries(rng: Generator, group: Any) -> None:
    path = rng.choice([path for path in arrays(group) if len(group[path].shape)])
    shape = (10**12, *group[path].shape[1:])
    kept, dtype = dict(group[path].attrs), group[path].dtype
    del group[path]
    chunks = (1000, *shape[1:])
    if is_zarr(group):
        made = group.create_array(path, shape=shape, dtype=dtype, chunks=chunks)
    else:
        made = group.create_dataset(path, shape=shape, dtype=dtype, chunks=chunks)
    for name, value in kept.items():
        made.attrs[name] = value


@structure
def categories_of_anndata_0_6(rng: Generator, group: Any) -> None:
    obs = group["obs"]
    codes, categories = np.array(obs["domain"]["codes"][...]), np.array(obs["domain"]["categories"][...])
    del obs["domain"]
    replace(obs, "domain", codes)
    replace(
        obs,
        "__categories/domain",
        np.arange(len(categories))
        if rng.random() < 0.5
        else np.array([str(one).encode() for one in categories]),
    )
    if not is_zarr(group):
        obs["domain"].attrs["categories"] = obs["__categories/domain"].ref


@structure
def wrong_categories(rng: Generator, group: Any) -> None:
    name = str(rng.choice([name for name in ("domain", "section", "batch") if name in group["obs"]]))
    one = group["obs"][name]
    if not hasattr(one, "keys"):
        replace(group["obs"], name, np.arange(3))
        return
    codes = np.array(one["codes"][...]).astype(np.int64)
    if rng.random() < 0.5:
        codes[: int(rng.integers(1, len(codes)))] = rng.choice([-5, 100, 2**40, -1])
        replace(one, "codes", codes)
    else:
        replace(one, "categories", np.zeros(one["categories"].shape[0], dtype=rng.choice(["i8", "f8"])))


@structure
def wrong_index_of_a_table(rng: Generator, group: Any) -> None:
    table = group[str(rng.choice(["obs", "var"]))]
    choice = int(rng.integers(6))
    if choice == 0:
        del table.attrs["_index"]
    elif choice == 1:
        table.attrs["_index"] = str(rng.choice(["no such", "", "domain", "/"]))
    elif choice == 2:
        table.attrs["column-order"] = [] if is_zarr(group) else np.array(["no such"], dtype=object)
    elif choice == 3:
        del table.attrs["column-order"]
    elif choice == 4:
        replace(table, table.attrs["_index"], np.arange(n_rows(table)))
    else:
        replace(table, table.attrs["_index"], np.zeros(n_rows(table), dtype="f8"))


def n_rows(table: Any) -> int:
    """Number of rows of a stored table; the names of pandas 3 are a group of values and mask."""
    names = table[table.attrs["_index"]]
    return int((names["values"] if hasattr(names, "keys") else names).shape[0])


@structure
def names_as_bytes(rng: Generator, group: Any) -> None:
    table = group[str(rng.choice(["obs", "var"]))]
    name, n = table.attrs["_index"], n_rows(table)
    values = np.array([b"\xff\xfe%d" % i if rng.random() < 0.5 else b"n%d" % i for i in range(n)])
    replace(table, name, values)


@structure
def a_compound_array(rng: Generator, group: Any) -> None:
    path = str(rng.choice(["obs", "var", "X", "obsm/spatial", "uns/table"]))
    values = np.zeros(int(rng.choice([0, 5, 60])), dtype=[("index", "S5"), ("x", "f8"), ("y", "f8")])
    if is_zarr(group):
        return an_array_of_another_type(rng, group)
    return replace(group, path, values)


@structure
def odd_links(rng: Generator, group: Any) -> None:
    """Links to another file, to nothing, and to themselves."""
    if is_zarr(group):
        return an_element_missing(rng, group)
    path = str(rng.choice(["X", "obsm/spatial", "obs/domain", "uns/link", "layers/link"]))
    if path in group:
        del group[path]
    links = [
        h5py.ExternalLink("/etc/passwd", "/X"),
        h5py.ExternalLink("other.h5", "/X"),
        h5py.SoftLink("/no"),
    ]
    links += [h5py.SoftLink(f"/{path}"), h5py.SoftLink("/")]
    group[path] = links[int(rng.integers(len(links)))]
    return None


@structure
def odd_datasets(rng: Generator, group: Any) -> None:
    path = str(rng.choice(["X", "obsm/spatial", "obs/domain", "uns/odd", "obs/section"]))
    if is_zarr(group):
        return an_array_of_another_length(rng, group)
    if path in group:
        del group[path]
    choice = int(rng.integers(4))
    if choice == 0:
        group[path] = h5py.Empty("f8")
    elif choice == 1:
        made = group.create_dataset(path, (5,), dtype=h5py.vlen_dtype(np.int32))
        made[0] = [1, 2, 3]
    elif choice == 2:
        group.create_dataset(path, data=group.ref, dtype=h5py.ref_dtype)
    else:
        group.create_dataset(path, data=np.zeros(3, dtype="V8"))
    return None


@structure
def names_that_anndata_would_not_write(rng: Generator, group: Any) -> None:
    n_obs = n_rows(group["obs"])
    for name in odd_names(rng, 3):
        with contextlib.suppress(Exception):  # what the format itself cannot hold
            anndata.io.write_elem(group["obsm"], name or "empty", np.zeros((n_obs, 2)))
            anndata.io.write_elem(group["uns"], name or "empty", "x")


@structure
def a_column_of_mixed_objects(rng: Generator, group: Any) -> None:
    """As h5py would write it: text of numbers, and empty text."""
    n = n_rows(group["obs"])
    values = np.array([["a", "", "1", "nan", "None"][i % 5] for i in range(n)], dtype=object)
    name = str(rng.choice(["section", "domain", "batch"]))
    if name in group["obs"]:
        del group["obs"][name]
    anndata.io.write_elem(group["obs"], name, values)


# ---------------------------------------------------------------------------- bytes


def some_file(rng: Generator, path: Path) -> Path:
    """The file itself, or one of a folder that has content."""
    if path.is_file():
        return path
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.stat().st_size)
    return files[int(rng.integers(len(files)))]


@damaged_bytes
def truncated(rng: Generator, path: Path) -> None:
    file = some_file(rng, path)
    content = file.read_bytes()
    file.write_bytes(content[: int(rng.integers(len(content) or 1))])


@damaged_bytes
def flipped(rng: Generator, path: Path) -> None:
    file = some_file(rng, path)
    content = bytearray(file.read_bytes())
    for _ in range(int(rng.choice([1, 4, 100]))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(bytes(content))


@damaged_bytes
def flipped_at_the_beginning(rng: Generator, path: Path) -> None:
    file = some_file(rng, path)
    content = bytearray(file.read_bytes())
    for _ in range(3):
        content[int(rng.integers(min(len(content), 600)))] = int(rng.integers(256))
    file.write_bytes(bytes(content))


@damaged_bytes
def emptied(rng: Generator, path: Path) -> None:
    some_file(rng, path).write_bytes(b"")


@damaged_bytes
def of_other_content(rng: Generator, path: Path) -> None:
    contents = [
        b"barcode,x,y\na,1,2\n",
        b"{}",
        b"\x89HDF\r\n\x1a\n",
        b"PK\x03\x04",
        b"\x00" * 4096,
        b"[]",
        b"null",
    ]
    some_file(rng, path).write_bytes(contents[int(rng.integers(len(contents)))])


@damaged_bytes
def a_hole(rng: Generator, path: Path) -> None:
    file = some_file(rng, path)
    content = bytearray(file.read_bytes())
    start = int(rng.integers(len(content)))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    file.write_bytes(bytes(content))


@damaged_bytes
def lost(rng: Generator, path: Path) -> None:
    """A file of a store is missing; a file becomes a folder."""
    if path.is_file():
        path.unlink()
        path.mkdir()
    else:
        some_file(rng, path).unlink()


@damaged_bytes
def metadata_of_another_shape(rng: Generator, path: Path) -> None:
    """Other values in the JSON of a zarr store."""
    if path.is_file():
        truncated(rng, path)
        return
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    files = sorted(one for one in path.rglob("*") if one.name in names)
    file = files[int(rng.integers(len(files)))]
    values = [None, -1, "x", [], {}, 1e400, [10**12], True, [None, 3], "float99"]
    content = json.loads(file.read_text())
    if content and rng.random() < 0.9:
        content[str(rng.choice(list(content)))] = values[int(rng.integers(len(values)))]
    else:
        content = values[int(rng.integers(len(values)))]
    file.write_text(json.dumps(content))


@damaged_bytes
def a_file_in_place_of_a_folder(rng: Generator, path: Path) -> None:
    if path.is_file():
        of_other_content(rng, path)
        return
    folders = sorted(one for one in path.rglob("*") if one.is_dir())
    folder = folders[int(rng.integers(len(folders)))]
    shutil.rmtree(folder)
    folder.write_bytes(b"x")
