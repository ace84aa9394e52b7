from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from bound import Tissue
from isovi.data.loading import disk_sampler
from isovi.data.loading.disk_sampler import DiskSampler
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.sampler import Shard
from isovi.geometry.hilbert import curve_order
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
]


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and buffers so small that a small tissue has many."""
    monkeypatch.setattr(disk_sampler, "RUN", 10)
    monkeypatch.setattr(disk_sampler, "RUNS_PER_BUFFER", 4)


def sampler_of(
    cells: np.ndarray, batch_size: int = 8, seed: int = 0, *, patches: bool = False, **kwargs: object
) -> DiskSampler:
    rng = np.random.default_rng(seed)
    return DiskSampler(cells, batch_size=batch_size, rng=rng, patches=patches, **kwargs)


def batches_of(sampler: DiskSampler) -> list[np.ndarray]:
    return [buffer.cells[batch] for buffer in sampler for batch in buffer.batches]


# ------------------------------------------------------------------ coverage
@given(
    n=st.integers(1, 400),
    batch_size=st.integers(1, 50),
    run=st.integers(1, 40),
    per_buffer=st.integers(4, 9),
    patches=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_cell_comes_exactly_once_in_the_declared_number_of_batches(
    n: int, batch_size: int, run: int, per_buffer: int, patches: bool, seed: int
) -> None:
    cells = np.random.default_rng(seed).permutation(2 * n)[:n]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_sampler, "RUN", run)
        patch.setattr(disk_sampler, "RUNS_PER_BUFFER", per_buffer)
        sampler = sampler_of(cells, batch_size, seed, patches=patches)
        for _ in range(2):
            batches = batches_of(sampler)
            assert len(batches) == len(sampler)
            assert all(len(batch) for batch in batches)
            assert sorted(np.concatenate(batches).tolist()) == sorted(cells.tolist())


@example(n=4, batch_size=1, run=1, count=3, patches=False, shuffle=True)
@given(
    n=st.integers(4, 400),
    batch_size=st.integers(1, 50),
    run=st.integers(1, 40),
    count=st.integers(2, 4),
    patches=st.booleans(),
    shuffle=st.booleans(),
)
def test_processes_share_the_cells_in_equally_many_batches(
    n: int, batch_size: int, run: int, count: int, patches: bool, shuffle: bool
) -> None:
    """Without talking to each other, and with equal generators after an epoch that one may leave early."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_sampler, "RUN", run)
        patch.setattr(disk_sampler, "RUNS_PER_BUFFER", 4)
        how = {"patches": patches, "shuffle": shuffle}
        samplers = [sampler_of(np.arange(n), batch_size, shard=Shard(r, count), **how) for r in range(count)]
        for _ in range(2):
            of_each = [batches_of(sampler) for sampler in samplers]
            assert len({len(batches) for batches in of_each} | {len(samplers[0])}) == 1
            assert sorted(
                np.concatenate([batch for batches in of_each for batch in batches]).tolist()
            ) == list(range(n))
        next(iter(samplers[0]))
        batches_of(samplers[1])
        assert samplers[0].rng.integers(2**63) == samplers[1].rng.integers(2**63)


def test_processes_have_minibatches_of_one_size() -> None:
    for n in (3_000, 200_000):
        samplers = [sampler_of(np.arange(n), 128, shard=Shard(rank, 2)) for rank in (0, 1)]
        sizes = np.array([len(batch) for sampler in samplers for batch in batches_of(sampler)])
        assert abs(sizes - sizes.mean()).max() <= 3 and 118 < sizes.mean() < 138


@pytest.mark.parametrize("patches", [True, False])
def test_batches_are_as_large_as_asked_within_a_patch(patches: bool) -> None:
    sizes = [len(batch) for batch in batches_of(sampler_of(np.arange(100_000), 128, patches=patches))]
    assert abs(np.array(sizes) - 128).max() <= (1.2 * 32 if patches else 2)


def test_what_a_shelf_reads_are_few_runs_of_neighbouring_rows() -> None:
    for buffer in sampler_of(np.arange(200_000)):
        assert (np.diff(buffer.cells) > 0).all()
        assert (np.diff(buffer.cells) > 1).sum() < disk_sampler.RUNS_PER_BUFFER + 1
        assert len(buffer.cells) < 1.5 * disk_sampler.RUN * disk_sampler.RUNS_PER_BUFFER


@pytest.mark.usefixtures("small_buffers")
def test_near_cells_meet_with_patches() -> None:
    """A patch is a run of rows, so most cells of a minibatch have the next row with them."""
    with_patches, alone = (
        np.mean(
            [
                np.isin(batch + 1, batch).mean()
                for batch in batches_of(sampler_of(np.arange(400), 16, patches=p))
            ]
        )
        for p in (True, False)
    )
    assert with_patches > 0.6 > 0.4 > alone


@pytest.mark.usefixtures("small_buffers")
def test_epochs_differ_unless_told() -> None:
    moving, still = sampler_of(np.arange(100)), sampler_of(np.arange(100), shuffle=False)
    for sampler, alike in ((moving, False), (still, True)):
        first, second = batches_of(sampler), batches_of(sampler)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)) is alike


def test_the_caller_owns_the_generator() -> None:
    first, same, other = (
        [b.tolist() for b in batches_of(sampler_of(np.arange(80), seed=s))] for s in (5, 5, 6)
    )
    assert first == same
    assert first != other


# ------------------------------------------------------------------ unbiasedness


def packed_tissue(n: int, seed: int = 0) -> Tissue:
    """Cells along the curve, of two sections."""
    rng = np.random.default_rng(seed)
    section = (np.arange(n) >= 0.6 * n).astype(np.int64)
    coordinates = rng.uniform(0, n**0.5, (n, 2)).astype(np.float32)
    coordinates = coordinates[curve_order(coordinates, section)]
    links = np.triu(rng.random((n, n)) < 0.05).astype(np.float32)
    return Tissue(Spots(coordinates, section), {"region": section + rng.integers(0, 2, n)}, {"links": links})


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize(("kind", "count"), [*((kind, 1) for kind in KINDS), ("all", 2), ("knn:3", 2)])
def test_corrected_sums_over_minibatches_are_unbiased(kind: str, count: int, patches: bool) -> None:
    """Their mean over epochs, of all processes, is the sum of G |d_Z - λ d_S| over all pairs of the split."""
    n, rng = 110, np.random.default_rng(1)
    tissue, inclusion = packed_tissue(n), InclusionProbability(n)
    latent = tissue.coordinates @ rng.normal(size=(2, 3)) + rng.normal(size=(n, 3))
    everywhere = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    weight = parse_pairs(kind).fit(*tissue)(*everywhere).reshape(n, n)
    values = weight * torch.as_tensor(abs(cdist(latent, latent) - 0.9 * cdist(*[tissue.coordinates] * 2)))
    cells = np.sort(rng.permutation(n)[: int(0.8 * n)])
    inside = values[cells][:, cells]
    total = float(inside.sum() - inside.diagonal().sum()) / 2

    how = {"patches": patches, "inclusion": inclusion}
    samplers = [sampler_of(cells, 16, shard=Shard(rank, count), **how) for rank in range(count)]
    assert samplers[0].n_buffers > 1
    corrected, bare = [], []
    for _ in range(400):
        sums = np.zeros(2)
        for batch in (b.cells[part] for sampler in samplers for b in sampler for part in b.batches):
            of = torch.as_tensor(batch)
            source, target = torch.triu_indices(len(of), len(of), 1)
            factor, share = inclusion.correction(source, target, of)
            value = values[of[source], of[target]]
            sums += float((factor * value).sum()), float(value.sum())
            assert float(share) == pytest.approx(count * len(samplers[0]) / len(cells) ** 2)
        corrected.append(sums[0])
        bare.append(sums[1])
    error = np.std(corrected, ddof=1) / np.sqrt(len(corrected))
    assert error < 0.05 * total
    assert abs(np.mean(corrected) - total) < 4 * error
    assert abs(np.mean(bare) - total) > 8 * error, "without the correction the test fails"
