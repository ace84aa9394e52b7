"""Tissot ellipses: what is known of linear maps and of Jacobians must come out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isovi.errors import InputError
from isovi.geometry import tissot
from isovi.geometry.tissot import TissotEllipses, ellipses_of, local_linear_maps, outlines, tissot_ellipses

seeds = st.integers(0, 2**32 - 1)
axes = st.sampled_from([2, 3])


def tissue(n_axes: int, rng: np.random.Generator, side: int | None = None, jitter: float = 0.2) -> np.ndarray:
    """A jittered grid of spacing one, some 100 spots if no side is given."""
    side = side or {2: 10, 3: 5}[n_axes]
    grid = np.stack(np.meshgrid(*[np.arange(float(side))] * n_axes), axis=-1).reshape(-1, n_axes)
    return grid + rng.uniform(-jitter, jitter, grid.shape)


def one_section(coordinates: np.ndarray) -> np.ndarray:
    return np.zeros(len(coordinates), dtype=np.int64)


def ellipses(latent: np.ndarray, coordinates: np.ndarray, n_neighbors: int = 12) -> TissotEllipses:
    return tissot_ellipses(latent, coordinates, one_section(coordinates), n_neighbors)


def turn(n: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def wavy(coordinates: np.ndarray, rng: np.random.Generator, n_latent: int = 4) -> np.ndarray:
    """A smooth map that is not linear."""
    waves = rng.normal(size=(coordinates.shape[1], n_latent)) * 0.3
    return np.sin(coordinates @ waves + rng.uniform(0, 6, n_latent)) + 0.1 * coordinates @ waves


def ellipse_matrix(half_axes: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The symmetric matrices of ellipses, which do not know of arbitrary angles of circles."""
    long = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    short = np.stack([-long[:, 1], long[:, 0]], axis=1)
    squares = [
        h[:, None, None] ** 2 * v[:, :, None] * v[:, None]
        for h, v in zip(half_axes.T, (long, short), strict=True)
    ]
    return squares[0] + squares[1]


class TestLinearMaps:
    @given(seed=seeds, n_axes=axes, n_latent=st.integers(1, 6), n_neighbors=st.integers(5, 20))
    @settings(max_examples=40)
    def test_are_found_exactly(self, seed, n_axes, n_latent, n_neighbors):
        rng = np.random.default_rng(seed)
        coordinates, linear = tissue(n_axes, rng), rng.normal(size=(n_latent, n_axes))
        found = ellipses(coordinates @ linear.T + rng.normal(size=n_latent), coordinates, n_neighbors)
        _, expected, _ = np.linalg.svd(np.vstack([linear, np.zeros((n_axes, n_axes))]))
        np.testing.assert_allclose(found.jacobian, np.broadcast_to(linear, found.jacobian.shape), atol=1e-9)
        np.testing.assert_allclose(found.half_axes, np.tile(expected, (len(coordinates), 1)), atol=1e-9)

    @given(seed=seeds, n_axes=axes)
    @settings(max_examples=20)
    def test_directions_are_stretched_by_the_half_axes(self, seed, n_axes):
        rng = np.random.default_rng(seed)
        coordinates = tissue(n_axes, rng)
        found = ellipses(wavy(coordinates, rng), coordinates)
        stretched = np.linalg.norm(np.einsum("cla,cia->cil", found.jacobian, found.directions), axis=2)
        np.testing.assert_allclose(stretched, found.half_axes, rtol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(found.directions, axis=2), 1.0)

    @pytest.mark.parametrize("n_axes", [2, 3])
    def test_isometry_has_unit_circles(self, n_axes):
        rng = np.random.default_rng(0)
        coordinates = tissue(n_axes, rng)
        found = ellipses(coordinates @ turn(5, rng)[:n_axes], coordinates)
        np.testing.assert_allclose(found.anisotropy, 1.0)
        np.testing.assert_allclose(found.area, 1.0)

    @pytest.mark.parametrize("degrees", [0, 30, 90, 135])
    def test_angle_is_that_of_the_stretch(self, degrees):
        rng = np.random.default_rng(0)
        coordinates, radians = tissue(2, rng), np.deg2rad(degrees)
        long = np.array([np.cos(radians), np.sin(radians)])
        linear = np.eye(2) + 2 * np.outer(long, long)
        found = ellipses(coordinates @ linear @ turn(2, rng), coordinates)
        assert np.abs(np.sin(found.angle - radians)).max() < 1e-9
        np.testing.assert_allclose(found.anisotropy, 3.0)
        np.testing.assert_allclose(found.area, 3.0)


class TestInvariance:
    @given(seed=seeds, n_axes=axes)
    @settings(max_examples=20)
    def test_rotation_and_translation_of_either_space(self, seed, n_axes):
        rng = np.random.default_rng(seed)
        coordinates = tissue(n_axes, rng)
        latent, rotation = wavy(coordinates, rng), turn(n_axes, rng)
        here = ellipses(latent, coordinates)
        moved = ellipses(latent @ turn(4, rng) + 3, coordinates @ rotation.T - 7)
        np.testing.assert_allclose(moved.half_axes, here.half_axes, rtol=1e-7, atol=1e-9)
        cosine = np.abs(np.einsum("ca,ca->c", moved.directions[:, 0], here.directions[:, 0] @ rotation.T))
        clear = here.anisotropy > 1.1  # the direction of a circle is arbitrary
        if n_axes == 3:
            clear &= here.half_axes[:, 0] > 1.1 * here.half_axes[:, 1]
        np.testing.assert_allclose(cosine[clear], 1.0, atol=1e-6)

    @given(seed=seeds, n_axes=axes, of_latent=st.floats(1e-6, 1e6), of_tissue=st.floats(1e-6, 1e6))
    @settings(max_examples=20)
    def test_scaling(self, seed, n_axes, of_latent, of_tissue):
        rng = np.random.default_rng(seed)
        coordinates = tissue(n_axes, rng)
        latent = wavy(coordinates, rng)
        here, scaled = ellipses(latent, coordinates), ellipses(of_latent * latent, of_tissue * coordinates)
        np.testing.assert_allclose(scaled.half_axes, here.half_axes * (of_latent / of_tissue), rtol=1e-6)
        np.testing.assert_allclose(scaled.anisotropy, here.anisotropy, rtol=1e-6)

    @pytest.mark.parametrize("jitter", [0.0, 0.2])
    def test_order_of_cells(self, jitter):
        rng = np.random.default_rng(0)
        coordinates = tissue(2, rng, jitter=jitter)  # on the grid many neighbours are equally far
        latent, order = rng.normal(size=(100, 4)), rng.permutation(100)
        here, shuffled = ellipses(latent, coordinates, 9), ellipses(latent[order], coordinates[order], 9)
        np.testing.assert_allclose(shuffled.jacobian, here.jacobian[order], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("n_axes", [2, 3])
    def test_blocks_do_not_change_the_result(self, monkeypatch, n_axes):
        rng = np.random.default_rng(0)
        coordinates = tissue(n_axes, rng)
        latent = wavy(coordinates, rng)
        whole = ellipses(latent, coordinates)
        monkeypatch.setattr(tissot, "_BLOCK_VALUES", 1000)
        parts = ellipses(latent, coordinates)
        np.testing.assert_array_equal(parts.jacobian, whole.jacobian)
        np.testing.assert_array_equal(parts.half_axes, whole.half_axes)

    def test_sections_do_not_see_each_other(self):
        rng = np.random.default_rng(0)
        first, second = tissue(2, rng), tissue(2, rng) + 0.5
        latents = wavy(first, rng), rng.normal(size=(100, 4))
        order = rng.permutation(200)
        section = np.repeat([7, 3], 100)[order]
        joint = tissot_ellipses(
            np.concatenate(latents)[order], np.concatenate([first, second])[order], section
        )
        apart = [
            ellipses(latent, coordinates)
            for latent, coordinates in zip(latents, (first, second), strict=True)
        ]
        expected = np.concatenate([part.jacobian for part in apart])[order]
        np.testing.assert_allclose(joint.jacobian, expected, rtol=1e-12, atol=1e-15)


class TestSmoothMaps:
    def test_converge_to_the_jacobian(self):
        rng = np.random.default_rng(0)
        spacings = np.array([0.2, 0.1, 0.05, 0.025])
        errors = [self.error(tissue(2, rng, side=15) - 7, spacing) for spacing in spacings]
        order = np.polyfit(np.log(spacings), np.log(errors), 1)[0]
        assert order > 0.9  # a jittered neighbourhood is not symmetric: first order in the spacing
        assert errors[-1] < 0.02

    @staticmethod
    def error(grid: np.ndarray, spacing: float) -> float:
        """Largest error of J in the map (x, y) -> (exp(x) cos(y), exp(x) sin(y), x y), around the origin."""
        x, y = (spacing * grid).T
        latent = np.stack([np.exp(x) * np.cos(y), np.exp(x) * np.sin(y), x * y], axis=1)
        rows = [
            [np.exp(x) * np.cos(y), -np.exp(x) * np.sin(y)],
            [np.exp(x) * np.sin(y), np.exp(x) * np.cos(y)],
        ]
        truth = np.moveaxis(np.array([*rows, [y, x]]), 2, 0)
        near = np.abs(grid).max(axis=1) < 4
        return float(np.abs(ellipses(latent, spacing * grid).jacobian - truth)[near].max())

    def test_noise_does_not_make_spots_differ_beyond_their_neighbourhood(self):
        rng = np.random.default_rng(0)
        coordinates = tissue(2, rng, side=20)
        latent = wavy(coordinates, rng)
        before = ellipses(latent, coordinates)
        latent[0] += 100
        changed = (before.half_axes != ellipses(latent, coordinates).half_axes).any(axis=1)
        assert changed[0]
        assert np.linalg.norm(coordinates[changed] - coordinates[0], axis=1).max() < 5


class TestDegenerate:
    def test_constant_latent_has_no_shape(self):
        coordinates = tissue(2, np.random.default_rng(0))
        found = ellipses(np.full((100, 3), 0.1), coordinates)
        assert (found.half_axes == 0).all()
        assert (found.area == 0).all()
        assert np.isnan(found.anisotropy).all()

    @pytest.mark.parametrize("n_axes", [2, 3])
    def test_flattened_tissue_is_infinitely_anisotropic(self, n_axes):
        rng = np.random.default_rng(0)
        coordinates = tissue(n_axes, rng)
        found = ellipses(coordinates[:, :1] @ rng.normal(size=(1, 4)), coordinates)
        assert np.isinf(found.anisotropy).all()
        assert (found.area == 0).all()
        np.testing.assert_allclose(np.abs(found.directions[:, 0, 0]), 1.0)

    @pytest.mark.parametrize("n_axes", [2, 3])
    @pytest.mark.parametrize("thickness", [0.0, 1e-6])
    def test_neighbours_on_a_line_or_plane_tell_nothing(self, n_axes, thickness):
        rng = np.random.default_rng(0)
        coordinates = tissue(n_axes, rng)
        coordinates[:, -1] *= thickness
        assert not ellipses(
            rng.normal(size=(len(coordinates), 3)), coordinates @ turn(n_axes, rng)
        ).valid.any()

    def test_neighbours_at_one_place_tell_nothing(self):
        rng = np.random.default_rng(0)
        coordinates = tissue(2, rng)
        coordinates[:20] = coordinates[0]
        found = ellipses(rng.normal(size=(100, 3)), coordinates)
        assert not found.valid[:20].any()
        assert found.valid[40:].all()

    def test_a_few_coinciding_spots_do_no_harm(self):
        rng = np.random.default_rng(0)
        coordinates = tissue(2, rng)
        coordinates[1:4] = coordinates[0]
        np.testing.assert_allclose(ellipses(coordinates * [3, 1], coordinates).anisotropy, 3.0)

    def test_neighbours_that_are_all_equally_far_tell_nothing(self):
        grid = tissue(2, np.random.default_rng(0), jitter=0.0)
        interior = ((grid > 0) & (grid < 9)).all(axis=1)
        assert not ellipses(grid, grid, 3).valid[interior].any()
        assert ellipses(grid, grid, 4).valid[interior].all()

    @pytest.mark.parametrize(("n", "valid"), [(1, False), (3, False), (4, True), (8, True)])
    def test_small_sections(self, n, valid):
        rng = np.random.default_rng(0)
        coordinates = np.concatenate([tissue(2, rng), 50 + rng.normal(size=(n, 2))])
        section = np.repeat([0, 1], [100, n])
        found = tissot_ellipses(coordinates, coordinates, section)
        assert found.valid[:100].all()
        assert (found.valid[100:] == valid).all()
        np.testing.assert_allclose(found.anisotropy[found.valid], 1.0)

    def test_no_spots(self):
        assert len(ellipses(np.empty((0, 3)), np.empty((0, 2)))) == 0

    def test_unplaced_spots_take_no_part(self):
        rng = np.random.default_rng(0)
        coordinates, latent = tissue(2, rng), rng.normal(size=(100, 3))
        placed = rng.uniform(size=100) < 0.5
        found = ellipses(latent, np.where(placed[:, None], coordinates, np.nan))
        alone = ellipses(latent[placed], coordinates[placed])
        np.testing.assert_array_equal(found.jacobian[placed], alone.jacobian)
        np.testing.assert_array_equal(found.valid, placed)
        assert np.isnan(found.angle[~placed]).all()
        assert np.isnan(found.area[~placed]).all()

    def test_missing_latent_values_stay_local(self):
        rng = np.random.default_rng(0)
        coordinates = tissue(2, rng)
        latent = wavy(coordinates, rng)
        latent[0] = np.nan
        found = ellipses(latent, coordinates)
        assert not found.valid[0]
        assert found.valid.sum() > 80

    @pytest.mark.parametrize(("n_axes", "n_neighbors"), [(2, 2), (3, 3), (2, -1)])
    def test_refuses_too_few_neighbours(self, n_axes, n_neighbors):
        with pytest.raises(InputError, match=f"at least {n_axes + 1} neighbours"):
            ellipses(np.zeros((20, 2)), np.zeros((20, n_axes)), n_neighbors)

    def test_refuses_an_angle_in_space(self):
        coordinates = tissue(3, np.random.default_rng(0))
        with pytest.raises(InputError, match="3 axes"):
            _ = ellipses(coordinates, coordinates).angle


class TestPictures:
    @given(seed=seeds, n_axes=axes)
    @settings(max_examples=20)
    def test_in_plane_is_the_image_of_the_unit_circle(self, seed, n_axes):
        rng = np.random.default_rng(seed)
        coordinates = tissue(n_axes, rng)
        found, projection = ellipses(wavy(coordinates, rng), coordinates), rng.normal(size=(2, 4))
        half_axes, angle = found.in_plane(projection)
        projected = projection @ found.jacobian
        np.testing.assert_allclose(half_axes, np.linalg.svd(projected, compute_uv=False), rtol=1e-9)
        expected = projected @ np.swapaxes(projected, 1, 2)
        np.testing.assert_allclose(ellipse_matrix(half_axes, angle), expected, atol=1e-9)

    def test_regression_commutes_with_projection(self):
        rng = np.random.default_rng(0)
        coordinates, projection = tissue(2, rng), rng.normal(size=(2, 4))
        latent = wavy(coordinates, rng)
        half_axes, _ = ellipses(latent, coordinates).in_plane(projection)
        np.testing.assert_allclose(ellipses(latent @ projection.T, coordinates).half_axes, half_axes)

    def test_in_tissue_has_the_half_axes_and_the_angle(self):
        rng = np.random.default_rng(0)
        coordinates = tissue(2, rng)
        found = ellipses(wavy(coordinates, rng), coordinates)
        half_axes, angle = found.in_tissue()
        np.testing.assert_allclose(half_axes, found.half_axes, rtol=1e-9)
        np.testing.assert_allclose(np.sin(angle - found.angle), 0.0, atol=1e-6)

    def test_ellipsoid_seen_along_the_third_axis(self):
        found = ellipses_of(np.diag([2.0, 1.0, 9.0])[None])
        half_axes, angle = found.in_tissue()
        np.testing.assert_allclose(half_axes, [[2.0, 1.0]])
        assert np.sin(angle[0]) == pytest.approx(0.0)

    def test_missing_maps_have_no_outline(self):
        half_axes, angle = outlines(np.stack([np.eye(2), np.full((2, 2), np.nan)]))
        np.testing.assert_array_equal(np.isnan(angle), [False, True])
        np.testing.assert_array_equal(half_axes, [[1, 1], [np.nan, np.nan]])


def test_memory_grows_with_cells_not_with_their_square(monkeypatch):
    monkeypatch.setattr(tissot, "_BLOCK_VALUES", 2**16)
    rng = np.random.default_rng(0)
    coordinates = tissue(2, rng, side=70)
    latent = wavy(coordinates, rng)
    tracemalloc.start()
    local_linear_maps(latent, coordinates, one_section(coordinates))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(coordinates) ** 2 / 8  # a byte a pair would be 24 MB
