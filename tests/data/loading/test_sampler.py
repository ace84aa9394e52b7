from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from bound import Tissue
from isovi import InputError
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.sampler import PATCHES_PER_BATCH, PatchBatchSampler, Shard, ShardBatchSampler
from isovi.graph import parse_pairs
from isovi.spots import Spots

KINDS = [
    "all",
    "knn:3",
    "radius:1.5",
    "delaunay",
    "gaussian:1",
    "domain:region",
    "obsp:links",
    "all+gaussian:1",
    "domain:region+knn:3",
]


def tissue_of(sizes: tuple[int, ...], n_axes: int = 2, seed: int = 0) -> Tissue:
    """Spots of several sections in random order, about one per unit of area or volume."""
    rng = np.random.default_rng(seed)
    section = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    sides = np.array(sizes) ** (1 / n_axes)
    coordinates = rng.uniform(0, 1, (len(section), n_axes)) * sides[section][:, None]
    links = sp.random(len(section), len(section), 0.05, random_state=rng, format="csr", dtype=np.float32)
    return Tissue(
        Spots(coordinates.astype(np.float32), section),
        {"region": section + rng.integers(0, 2, len(section))},
        {"links": links},
    )


def sampler_of(
    tissue: Tissue,
    batch_size: int = 16,
    *,
    cells: np.ndarray | None = None,
    inclusion: InclusionProbability | None = None,
    rng: int | np.random.Generator = 0,
    shuffle: bool = True,
    shard: Shard | None = None,
) -> PatchBatchSampler:
    cells = np.arange(len(tissue.section)) if cells is None else cells
    return PatchBatchSampler(
        tissue.coordinates[cells],
        tissue.section[cells],
        cells,
        batch_size=batch_size,
        inclusion=inclusion or InclusionProbability(len(tissue.section)),
        rng=np.random.default_rng(rng),
        shuffle=shuffle,
        shard=shard or Shard(),
    )


# ------------------------------------------------------------------ coverage
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4).map(tuple),
    batch_size=st.integers(4, 50),
    seed=st.integers(0, 99),
)
def test_every_spot_comes_exactly_once_in_the_declared_number_of_batches(
    sizes: tuple[int, ...], batch_size: int, seed: int
) -> None:
    tissue = tissue_of(sizes, seed=seed)
    sampler = sampler_of(tissue, batch_size, rng=seed)
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(np.concatenate(batches).tolist()) == list(range(sum(sizes)))


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("batch_size", [16, 64, 100])
def test_batches_are_as_large_as_asked_within_a_patch(batch_size: int, n_axes: int) -> None:
    sampler = sampler_of(tissue_of((700, 333), n_axes), batch_size)
    sizes = [len(batch) for batch in sampler]
    patch = batch_size / PATCHES_PER_BATCH
    assert abs(np.array(sizes) - batch_size).max() <= 1.2 * patch


def test_patches_are_of_one_section_and_recorded() -> None:
    sizes = (90, 50)
    tissue, inclusion = tissue_of(sizes), InclusionProbability(140)
    batches = list(sampler_of(tissue, inclusion=inclusion))
    patches = [np.flatnonzero(inclusion.patch == patch) for patch in np.unique(inclusion.patch)]
    assert inclusion.patch.min() == 0
    assert all(len(np.unique(tissue.section[patch])) == 1 for patch in patches)
    in_batch = {frozenset(batch.tolist()): len(np.unique(inclusion.patch[batch])) for batch in batches}
    assert sum(in_batch.values()) == len(patches), "no patch is split between minibatches"


@pytest.mark.parametrize("n_axes", [2, 3])
def test_patches_are_compact(n_axes: int) -> None:
    tissue, inclusion = tissue_of((1000, 600), n_axes), InclusionProbability(1600)
    list(sampler_of(tissue, 64, inclusion=inclusion))
    within = np.mean(
        [pdist(tissue.coordinates[inclusion.patch == p]).mean() for p in np.unique(inclusion.patch)]
    )
    apart = np.mean([pdist(tissue.coordinates[tissue.section == code]).mean() for code in (0, 1)])
    ideal = (16 / 800) ** (1 / n_axes)  # side of a patch over that of a section
    assert within < 1.5 * ideal * apart


def test_cuts_differ_between_epochs_unless_told() -> None:
    tissue, inclusion = tissue_of((80,)), InclusionProbability(80)
    sampler = sampler_of(tissue, inclusion=inclusion)
    labels = [(list(sampler), inclusion.patch.clone())[1] for _ in range(2)]
    assert not np.array_equal(*labels)
    still = sampler_of(tissue, shuffle=False)
    assert all(np.array_equal(a, b) for a, b in zip(list(still), list(still), strict=True))


def test_the_caller_owns_the_generator() -> None:
    tissue = tissue_of((80, 40))
    first, same, other = ([b.tolist() for b in sampler_of(tissue, rng=seed)] for seed in (5, 5, 6))
    assert first == same
    assert first != other
    rng = np.random.default_rng(5)
    list(sampler_of(tissue, rng=rng))
    assert rng.bit_generator.state != np.random.default_rng(5).bit_generator.state


def test_spots_without_position_come_too() -> None:
    tissue = tissue_of((50,))
    tissue.coordinates[::3] = np.nan
    assert sorted(np.concatenate(list(sampler_of(tissue))).tolist()) == list(range(50))


@pytest.mark.parametrize("batch_size", [3, 1, 0])
def test_batches_smaller_than_their_patches_are_refused(batch_size: int) -> None:
    with pytest.raises(InputError, match=f"batch_size={batch_size} .* at least 4"):
        sampler_of(tissue_of((20,)), batch_size)


# ------------------------------------------------------------------ several processes
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4).map(tuple),
    count=st.integers(1, 4),
    batch_size=st.integers(4, 50),
    shuffle=st.booleans(),
)
def test_every_spot_comes_once_over_all_processes_in_equally_many_batches(
    sizes: tuple[int, ...], count: int, batch_size: int, shuffle: bool
) -> None:
    n, tissue = sum(sizes), tissue_of(sizes)
    assume(n >= count)
    shards = [Shard(rank, count) for rank in range(count)]
    patches = [sampler_of(tissue, batch_size, shuffle=shuffle, shard=shard) for shard in shards]
    at_random = [
        ShardBatchSampler(
            n, batch_size=batch_size, shard=shard, rng=np.random.default_rng(0), shuffle=shuffle
        )
        for shard in shards
    ]
    for samplers in (patches, at_random):
        for _ in range(2):
            dealt = [list(sampler) for sampler in samplers]
            assert {len(batches) for batches in dealt} == {len(samplers[0])}
            spots = np.concatenate([batch for batches in dealt for batch in batches])
            assert sorted(spots.tolist()) == list(range(n))
    sizes_at_random = [len(batch) for sampler in at_random for batch in sampler]
    assert max(sizes_at_random) <= batch_size and max(sizes_at_random) - min(sizes_at_random) <= 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_cut_alike_and_keep_the_size_of_a_batch(count: int) -> None:
    tissue, inclusions = tissue_of((700, 333)), [InclusionProbability(1033) for _ in range(count)]
    samplers = [
        sampler_of(tissue, 32, inclusion=inclusion, shard=Shard(rank, count))
        for rank, inclusion in enumerate(inclusions)
    ]
    sizes = np.array([len(batch) for sampler in samplers for batch in sampler])
    assert abs(sizes - 32).max() <= 1.3 * 32 / PATCHES_PER_BATCH
    for inclusion in inclusions:
        assert np.array_equal(inclusion.patch, inclusions[0].patch)
        assert np.array_equal(inclusion.share, inclusions[0].share)


def test_fewer_spots_than_processes_are_refused() -> None:
    with pytest.raises(InputError, match="2 spots are to be shared by 3 processes"):
        sampler_of(tissue_of((2,)), shard=Shard(0, 3))
    with pytest.raises(InputError, match="2 spots are to be shared by 3 processes"):
        ShardBatchSampler(2, batch_size=8, shard=Shard(0, 3), rng=np.random.default_rng(0))


# ------------------------------------------------------------------ unbiasedness


def epoch_sums(
    samplers: list[PatchBatchSampler], values: torch.Tensor, n_epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over an epoch's minibatches of all processes, with and without the correction."""
    sums = np.zeros((2, n_epochs))
    for epoch in range(n_epochs):
        for sampler in samplers:
            for batch in sampler:
                cells = torch.as_tensor(sampler.cells[batch])
                source, target = torch.triu_indices(len(cells), len(cells), 1)
                correction, _ = sampler.inclusion.correction(source, target, cells)
                value = values[cells[source], cells[target]]
                sums[:, epoch] += float((correction * value).sum()), float(value.sum())
    return sums[0], sums[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sizes", "count"), [((70, 41), 1), ((60, 9, 30), 1), ((70, 41), 2)])
def test_corrected_sums_over_minibatches_are_unbiased(kind: str, sizes: tuple[int, ...], count: int) -> None:
    """Their mean over epochs is the sum of G |d_Z - λ d_S| over all pairs of the split."""
    tissue = tissue_of(sizes)
    n, rng = sum(sizes), np.random.default_rng(1)
    latent = tissue.coordinates @ rng.normal(size=(2, 3)) + rng.normal(size=(n, 3))
    everywhere = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    weight = parse_pairs(kind).fit(*tissue)(*everywhere).reshape(n, n)
    values = weight * torch.as_tensor(abs(cdist(latent, latent) - 0.9 * cdist(*[tissue.coordinates] * 2)))
    cells = rng.permutation(n)[: int(0.8 * n)]
    inside = values[cells][:, cells]
    total = float(inside.sum() - inside.diagonal().sum()) / 2

    samplers = [
        sampler_of(tissue, cells=cells, inclusion=InclusionProbability(n), shard=Shard(rank, count))
        for rank in range(count)
    ]
    corrected, bare = epoch_sums(samplers, values, n_epochs=200)
    error = corrected.std(ddof=1) / np.sqrt(len(corrected))
    assert error < 0.03 * total
    assert abs(corrected.mean() - total) < 4 * error
    assert abs(bare.mean() - total) > 8 * error, "without the correction the test fails"
