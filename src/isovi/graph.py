"""Pair weights G over the spots of a tissue: one small class per kind of pairs.

A kind is a frozen description (``Neighbors(6)``); :meth:`PairKind.fit` binds it to spots. Kinds are
joined with ``|``, which takes the larger weight of each pair. Pairs never cross sections.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import Delaunay as _Triangulation
from scipy.spatial import QhullError, cKDTree

from isovi._shapes import CellIndexArray, CellIndices, CoordinateArray, PairFloats, PairIndices
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.pairs import sample_pairs
from isovi.spots import Spots

Named = Mapping[str, Any]  # entries of obs or obsp by name
NONE: Named = MappingProxyType({})


class PairWeights(ABC):
    """Weights G of the pairs of one tissue."""

    @abstractmethod
    def __call__(self, source: PairIndices, target: PairIndices) -> PairFloats:
        """Weights of the given pairs of spots of the tissue."""

    def among(self, cells: CellIndices, source: PairIndices, target: PairIndices) -> PairFloats:
        """Weights of pairs within a minibatch.

        Parameters
        ----------
        cells
            Indices in the tissue of the minibatch's spots.
        source, target
            Indices in the minibatch of the two spots of each pair, both of one section.
        """
        return self(cells[source], cells[target])

    def kept(self, device: torch.device, make: Callable[[], Iterable[torch.Tensor]]) -> list[torch.Tensor]:
        """Tensors made once for each device, which keeps them: a minibatch waits for none to arrive."""
        every = vars(self).setdefault("_kept", {})
        if device not in every:
            every[device] = [tensor.to(device) for tensor in make()]
        return every[device]

    @abstractmethod
    def draw(self, n_pairs: int, rng: np.random.Generator) -> tuple[PairIndices, PairIndices, PairFloats]:
        """Draw about ``n_pairs`` pairs whose weighted sums are unbiased estimates of sums over all pairs.

        Returns
        -------
        source, target, weight
            Spots of each pair, and G divided by the probability that the pair is drawn.
        """

    @abstractmethod
    def n_pairs(self, spots: Spots, rows: CellIndexArray) -> np.ndarray:
        """Number of pairs of positive weight among some spots, by section.

        Parameters
        ----------
        spots
            Those that the weights are of.
        rows
            Which of them, shape ``(some_cell,)``.

        Returns
        -------
        int64, shape ``(section,)``.
        """


@dataclass(frozen=True)
class SameCode(PairWeights):
    """Weight one if two spots have the same code."""

    codes: torch.Tensor

    def __call__(self, source: PairIndices, target: PairIndices) -> PairFloats:
        (codes,) = self.kept(source.device, lambda: (self.codes,))
        return (codes[source] == codes[target]).float()

    def draw(self, n_pairs: int, rng: np.random.Generator) -> tuple[PairIndices, PairIndices, PairFloats]:
        codes = self.codes.numpy()
        source, target = map(torch.as_tensor, sample_pairs(codes, n_pairs, rng))
        sizes = np.unique(codes, return_counts=True)[1].astype(float)
        total = (sizes * (sizes - 1) / 2).sum()
        return source, target, torch.full((len(source),), total / max(len(source), 1))

    def n_pairs(self, spots: Spots, rows: CellIndexArray) -> np.ndarray:
        rows = rows[spots.placed[rows]]
        _, first, sizes = np.unique(self.codes.numpy()[rows], return_index=True, return_counts=True)
        found = np.zeros(len(spots.sections), dtype=np.int64)
        np.add.at(found, spots.section[rows[first]], sizes * (sizes - 1) // 2)  # no code is of two sections
        return found


@dataclass(frozen=True)
class SameSection(SameCode):
    """Weight one for every pair of a section."""

    def among(self, cells: CellIndices, source: PairIndices, target: PairIndices) -> PairFloats:
        del target  # all pairs have the same weight
        return torch.ones(len(source), device=cells.device)


@dataclass(frozen=True)
class Stored(PairWeights):
    """Weights stored in a sparse symmetric matrix."""

    matrix: sp.csr_matrix

    def __call__(self, source: PairIndices, target: PairIndices) -> PairFloats:
        if not len(source):  # scipy returns no array in this case
            return torch.empty(0, device=source.device)
        if source.device.type != "cpu":
            return self._looked_up(source, target)
        rows, columns = (end.numpy().copy() for end in (source, target))  # scipy needs its own copies
        return torch.as_tensor(np.asarray(self.matrix[rows, columns]).ravel(), dtype=torch.float32)

    def _looked_up(self, source: PairIndices, target: PairIndices) -> PairFloats:
        """The same on a device, by bisection among the numbers of all stored entries."""
        number, weight = self.kept(source.device, self._numbered)
        wanted = source.long() * self.matrix.shape[1] + target
        place = torch.searchsorted(number, wanted)
        return torch.where(number[place] == wanted, weight[place], 0.0)

    def _numbered(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Number of each stored entry, counted along the rows, and its weight; then one that is none."""
        entries = self.matrix.tocoo()
        number = entries.row.astype(np.int64) * self.matrix.shape[1] + entries.col
        order = np.argsort(number)
        weight = entries.data[order].astype(np.float32)
        return torch.from_numpy(np.append(number[order], np.iinfo(np.int64).max)), torch.from_numpy(
            np.append(weight, 0.0)
        )

    def draw(self, n_pairs: int, rng: np.random.Generator) -> tuple[PairIndices, PairIndices, PairFloats]:
        upper = sp.triu(self.matrix, k=1).tocoo()
        chosen = np.arange(upper.nnz)
        if upper.nnz > n_pairs:
            chosen = rng.choice(upper.nnz, size=n_pairs, replace=False)
        weight = upper.data[chosen] * (upper.nnz / max(len(chosen), 1))
        source, target = (torch.as_tensor(end[chosen], dtype=torch.int64) for end in (upper.row, upper.col))
        return source, target, torch.as_tensor(weight, dtype=torch.float32)

    def n_pairs(self, spots: Spots, rows: CellIndexArray) -> np.ndarray:
        here = np.zeros(len(spots), dtype=bool)
        here[rows] = spots.placed[rows]
        of = np.repeat(np.arange(len(spots)), np.diff(self.matrix.indptr))
        both = here[of] & here[self.matrix.indices] & (self.matrix.data > 0)
        return np.bincount(spots.section[of[both]], minlength=len(spots.sections)) // 2


@dataclass(frozen=True)
class Largest(PairWeights):
    """The larger of two weights."""

    first: PairWeights
    second: PairWeights

    def __call__(self, source: PairIndices, target: PairIndices) -> PairFloats:
        return torch.maximum(self.first(source, target), self.second(source, target))

    def draw(self, n_pairs: int, rng: np.random.Generator) -> tuple[PairIndices, PairIndices, PairFloats]:
        some = self.first.draw(n_pairs, rng)
        source, target, weight = self.second.draw(n_pairs, rng)
        exceeds = self(source, target) - self.first(source, target)
        more = (source, target, weight * exceeds / self.second(source, target).clamp(min=1e-12))
        source, target, weight = (torch.cat(both) for both in zip(some, more, strict=True))
        return source, target, weight

    def n_pairs(self, spots: Spots, rows: CellIndexArray) -> np.ndarray:
        """Of the kind that has more in a section: those of both are not distinguished."""
        return np.maximum(self.first.n_pairs(spots, rows), self.second.n_pairs(spots, rows))


class PairKind(ABC):
    """A kind of pair weights.

    Attributes
    ----------
    local
        Whether the pairs are few and near, so that minibatches must consist of patches of tissue to
        contain them.
    obs_keys, obsp_keys
        Names of the AnnData entries that :meth:`fit` needs.
    remedy
        What helps where it leaves no pair.
    """

    local: ClassVar[bool] = True
    remedy: ClassVar[str] = "Check positions and sections"

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """Categorical ``obs`` columns that this kind reads."""
        return ()

    @property
    def obsp_keys(self) -> tuple[str, ...]:
        """``obsp`` matrices that this kind reads."""
        return ()

    @abstractmethod
    def fit(self, spots: Spots, columns: Named = NONE, matrices: Named = NONE) -> PairWeights:
        """Bind the kind to spots.

        Parameters
        ----------
        spots
            Where the spots are; those without a position form no pair of a kind that looks at positions.
        columns
            Category codes of the ``obs`` columns in :attr:`obs_keys`, each of shape ``(cell,)``.
        matrices
            The ``obsp`` matrices in :attr:`obsp_keys`, sparse or dense, each of shape ``(cell, cell)``.
        """

    def __str__(self) -> str:
        """As :func:`parse_pairs` reads it; a kind that it does not know shows its fields."""
        names = [name for name, (kind, _) in KINDS.items() if kind is type(self)]
        if not names:
            return repr(self)
        values = (repr(v).removesuffix(".0") if isinstance(v, float) else str(v) for v in vars(self).values())
        return ":".join([*names, *values])

    def __or__(self, other: PairKind) -> PairKind:
        return Union(self, other)


@dataclass(frozen=True)
class AllPairs(PairKind):
    """All pairs of a section, with weight one (G of ones in the paper)."""

    local: ClassVar[bool] = False

    def fit(self, spots: Spots, columns: Named = NONE, matrices: Named = NONE) -> PairWeights:
        return SameSection(torch.as_tensor(spots.section))


@dataclass(frozen=True)
class SameDomain(PairKind):
    """Pairs of one section that share a category of ``obs[key]`` (a domain, a layer, a cell type)."""

    key: str
    local: ClassVar[bool] = False
    remedy: ClassVar[str] = "Name a column whose categories have several spots each"

    @property
    def obs_keys(self) -> tuple[str, ...]:
        return (self.key,)

    def fit(self, spots: Spots, columns: Named = NONE, matrices: Named = NONE) -> PairWeights:
        codes = columns[self.key]
        joined = np.unique(np.stack([spots.section, codes]), axis=1, return_inverse=True)[1]
        return SameCode(torch.as_tensor(joined.ravel()))


class SparseKind(PairKind):
    """A kind that stores its pairs, made section by section from coordinates.

    The spots of a section are looked at in the order of their coordinates, so that the pairs do not depend on
    the order in which the spots are stored, not even where several neighbours are equally far.
    """

    def fit(self, spots: Spots, columns: Named = NONE, matrices: Named = NONE) -> PairWeights:
        n, blocks = len(spots), []
        for code in np.unique(spots.section):
            members = np.flatnonzero((spots.section == code) & spots.placed)
            members = members[np.lexsort(spots.coordinates[members].T)]
            blocks.append(_embed(self.section_weights(spots.coordinates[members]), members, n))
        return Stored(_symmetric(reduce(lambda a, b: a + b, blocks)))

    @abstractmethod
    def section_weights(self, coordinates: CoordinateArray) -> sp.spmatrix:
        """Weights among the spots of one section, shape ``(cell, cell)``, sparse."""


@dataclass(frozen=True)
class Neighbors(SparseKind):
    """The ``k`` nearest neighbours of each spot, in either direction, with weight one."""

    k: int = 6

    def __post_init__(self) -> None:
        _require(self.k >= 1, f"Neighbors(k={self.k}) is not valid.", "k must be at least 1.")

    def section_weights(self, coordinates: CoordinateArray) -> sp.spmatrix:
        k = min(self.k, len(coordinates) - 1)
        if k < 1:
            return sp.csr_matrix((len(coordinates),) * 2, dtype=np.float32)
        rows = np.repeat(np.arange(len(coordinates), dtype=np.int32), k + 1)
        return _drop_diagonal(_ones(rows, nearest(coordinates, k + 1).ravel(), len(coordinates)))


@dataclass(frozen=True)
class Radius(SparseKind):
    """Pairs at most ``radius`` coordinate units apart, with weight one."""

    radius: float
    remedy: ClassVar[str] = "Use a larger radius (in median distances to the nearest neighbour)"

    def __post_init__(self) -> None:
        _require(
            0 < self.radius < np.inf,
            f"Radius({self.radius}) is not valid.",
            "The radius must be positive and finite.",
        )

    def section_weights(self, coordinates: CoordinateArray) -> sp.spmatrix:
        near = cKDTree(coordinates).query_pairs(self.radius, output_type="ndarray")
        return _ones(near[:, 0], near[:, 1], len(coordinates))


@dataclass(frozen=True)
class Delaunay(SparseKind):
    """Edges of the Delaunay triangulation of each section, with weight one."""

    def section_weights(self, coordinates: CoordinateArray) -> sp.spmatrix:
        if not len(coordinates):
            return sp.csr_matrix((0, 0), dtype=np.float32)
        try:
            simplices = _Triangulation(coordinates).simplices
        except QhullError as error:
            raise InputError(
                f"A section of {len(coordinates)} spots has no Delaunay triangulation.",
                "Its spots must not all lie on one line.",
                "Use Neighbors(k) for such a section.",
            ) from error
        corners = simplices.shape[1]
        first, second = np.triu_indices(corners, 1)
        return _ones(simplices[:, first].ravel(), simplices[:, second].ravel(), len(coordinates))


@dataclass(frozen=True)
class Gaussian(SparseKind):
    """Kernel weights exp(-d_S² / 2 h²), truncated at three bandwidths (where they are below 0.012).

    Parameters
    ----------
    bandwidth
        h, in coordinate units.
    """

    bandwidth: float = 2.0
    remedy: ClassVar[str] = "Use a larger bandwidth (in median distances to the nearest neighbour)"

    def __post_init__(self) -> None:
        _require(
            0 < self.bandwidth < np.inf,
            f"Gaussian(bandwidth={self.bandwidth}) is not valid.",
            "The bandwidth must be positive and finite.",
        )

    def section_weights(self, coordinates: CoordinateArray) -> sp.spmatrix:
        near = cKDTree(coordinates).query_pairs(3 * self.bandwidth, output_type="ndarray")
        length = np.linalg.norm(coordinates[near[:, 0]] - coordinates[near[:, 1]], axis=1)
        weight = np.exp(-0.5 * (length / self.bandwidth) ** 2).astype(np.float32)
        return sp.csr_matrix((weight, (near[:, 0], near[:, 1])), shape=(len(coordinates),) * 2)


@dataclass(frozen=True)
class Obsp(PairKind):
    """Weights from the sparse matrix ``obsp[key]``, symmetrised; pairs across sections are dropped.

    Raises
    ------
    InputError
        On fitting, if a weight is negative or not finite.
    """

    key: str
    remedy: ClassVar[str] = "Use a matrix with positive weights off its diagonal, such as connectivities"

    @property
    def obsp_keys(self) -> tuple[str, ...]:
        return (self.key,)

    def fit(self, spots: Spots, columns: Named = NONE, matrices: Named = NONE) -> PairWeights:
        matrix = _drop_diagonal(sp.csr_matrix(matrices[self.key], dtype=np.float32)).tocoo()
        wrong = ~(np.isfinite(matrix.data) & (matrix.data >= 0))
        if wrong.any():
            raise InputError(
                f"obsp[{self.key!r}] contains {matrix.data[wrong][0]:g}.",
                "Pair weights must be finite and non-negative.",
                "Use a matrix of weights, such as connectivities.",
            )
        within = spots.section[matrix.row] == spots.section[matrix.col]
        kept = (matrix.data[within], (matrix.row[within], matrix.col[within]))
        return Stored(_symmetric(sp.csr_matrix(kept, shape=matrix.shape)))


@dataclass(frozen=True)
class Union(PairKind):
    """Pairs of either kind, with the larger of the two weights."""

    first: PairKind
    second: PairKind

    def __str__(self) -> str:
        return f"{self.first}+{self.second}"

    @property
    def local(self) -> bool:  # type: ignore[override]  # a union is local when either part is
        return self.first.local or self.second.local

    @property
    def obs_keys(self) -> tuple[str, ...]:
        return self.first.obs_keys + self.second.obs_keys

    @property
    def obsp_keys(self) -> tuple[str, ...]:
        return self.first.obsp_keys + self.second.obsp_keys

    def fit(self, spots: Spots, columns: Named = NONE, matrices: Named = NONE) -> PairWeights:
        both = (kind.fit(spots, columns, matrices) for kind in (self.first, self.second))
        return Largest(*both)


def require_pairs(kind: PairKind, weights: PairWeights, spots: Spots, rows: CellIndexArray) -> None:
    """Refuse pairs of which there are none to train on.

    Parameters
    ----------
    kind, weights
        What was asked for, and what came of it.
    spots
        Those that the weights are of.
    rows
        Training spots, shape ``(some_cell,)``.

    Raises
    ------
    InputError
        If no two training spots form a pair, of a union for either kind.

    Warns
    -----
    IsoviWarning
        With the sections in which no two training spots form a pair.
    """
    if isinstance(kind, Union) and isinstance(weights, Largest):
        require_pairs(kind.first, weights.first, spots, rows)
        require_pairs(kind.second, weights.second, spots, rows)
        return
    if spots.placed[rows].sum() < 2:  # cells of a query, which need no position
        return
    found = weights.n_pairs(spots, rows)
    if not found.any():
        raise InputError(
            f"pairs={kind!r} leaves no pair among {len(rows)} training spots.",
            "Some are needed: two spots of one section, with a positive weight.",
            f"{kind.remedy}, or use pairs=AllPairs().",
        )
    trained = np.bincount(spots.section[rows], minlength=len(found)) > 0
    without = [name for name, n, any_ in zip(spots.sections, found, trained, strict=True) if any_ and not n]
    if without:
        listed = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        warnings.warn(
            f"pairs={kind!r} leaves no pair of training spots in {len(without)} of {int(trained.sum())} "
            f"sections ({listed}): distances there are not constrained.",
            IsoviWarning,
            stacklevel=2,
        )


def nearest(coordinates: CoordinateArray, k: int) -> np.ndarray:
    """Row indices of the ``k`` nearest spots of each spot, usually beginning with the spot itself.

    Spots are queried in the order of the tree's leaves, which makes good use of the cache: with a million
    spots this is four times faster.

    Parameters
    ----------
    coordinates
        Shape ``(cell, axis)``; finite.
    k
        Number of spots to return, at most the number of spots.

    Returns
    -------
    int32, shape ``(cell, k)``, from near to far.
    """
    tree = cKDTree(coordinates)
    near = np.empty((len(coordinates), k), dtype=np.int32)
    near[tree.indices] = tree.query(coordinates[tree.indices], k=k)[1]
    return near


def parse_pairs(text: str) -> PairKind:
    """Parse a kind of pairs from text, as used on the command line.

    Parameters
    ----------
    text
        ``all``, ``knn:6``, ``radius:2.5``, ``delaunay``, ``gaussian:2``, ``domain:KEY``, ``obsp:KEY``, or
        several joined by ``+``.

    Raises
    ------
    InputError
        If the text is not a valid kind of pairs.

    Examples
    --------
    >>> parse_pairs("all+knn:6")
    Union(first=AllPairs(), second=Neighbors(k=6))
    """
    return reduce(lambda a, b: a | b, [_parse_one(part) for part in text.split("+")])


KINDS = {
    "all": (AllPairs, None),
    "knn": (Neighbors, int),
    "radius": (Radius, float),
    "delaunay": (Delaunay, None),
    "gaussian": (Gaussian, float),
    "domain": (SameDomain, str),
    "obsp": (Obsp, str),
}
"""Kinds of pairs by the name that the command line gives them, each with the type of its argument."""

KIND_CLASSES = (*(kind for kind, _ in KINDS.values()), Union)


def _parse_one(text: str) -> PairKind:
    name, _, argument = text.strip().partition(":")
    try:
        kind, convert = KINDS[name]
        if convert is None and argument:
            raise ValueError(argument)
        return kind(convert(argument)) if convert and argument else kind()
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"Pairs {text!r} were asked for.",
            f"The kinds are {', '.join(KINDS)}.",
            "Write for example all, knn:6, radius:2.5, delaunay, gaussian:2, domain:KEY, obsp:KEY "
            "or all+knn:6.",
        ) from error


def _ones(rows: np.ndarray, columns: np.ndarray, n: int) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(n, n)).sign()


def _drop_diagonal(matrix: sp.csr_matrix) -> sp.csr_matrix:
    off = matrix.tocoo()
    keep = off.row != off.col
    return sp.csr_matrix((off.data[keep], (off.row[keep], off.col[keep])), shape=matrix.shape)


def _embed(block: sp.spmatrix, members: np.ndarray, n: int) -> sp.csr_matrix:
    entries = block.tocoo()
    members = members.astype(np.int32 if n < 2**31 else np.int64)
    where = (members[entries.row], members[entries.col])
    return sp.csr_matrix((entries.data.astype(np.float32, copy=False), where), shape=(n, n))


def _symmetric(matrix: sp.csr_matrix) -> sp.csr_matrix:
    joined = matrix.maximum(matrix.T).tocsr()
    joined.indices = joined.indices.astype(np.int32, copy=False)
    joined.indptr = joined.indptr.astype(np.int32 if joined.nnz < 2**31 else np.int64, copy=False)
    return joined


def _require(met: bool, received: str, rule: str) -> None:
    if not met:
        raise InputError(received, rule, "Use another value.")
