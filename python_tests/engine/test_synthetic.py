"""Rendered scenes: the same for a seed, and exact."""

import numpy as np
import pytest

from swiftnet_ext.data.synthetic import BASELINE, PAVEMENT, ROAD, SKY, render_scene


def test_a_seed_gives_the_same_scene_and_another_another():
    a, b, c = render_scene(3), render_scene(3), render_scene(4)
    for x, y in zip(a, b):
        assert np.array_equal(x, y)
    assert not np.array_equal(a.image, c.image)


@pytest.mark.parametrize("size", [(360, 480), (96, 128), (200, 150)])
def test_shapes_dtypes_and_labels(size):
    scene = render_scene(0, *size)
    assert scene.image.shape == size + (3,) and scene.image.dtype == np.uint8
    assert scene.labels.shape == size and scene.labels.dtype == np.uint8 and scene.labels.max() <= 10
    assert scene.disparity.shape == size and scene.disparity.dtype == np.float32


def test_all_classes_appear():
    assert {int(v) for seed in range(6) for v in np.unique(render_scene(seed).labels)} == set(range(11))


def test_disparity_is_that_of_the_geometry():
    scene = render_scene(1)
    assert (scene.disparity[scene.labels == SKY] == 0).all()
    assert (scene.disparity[scene.labels != SKY] > 0).all()
    # on flat ground disparity is linear in the row: baseline / camera height for each row below the horizon
    ground = np.isin(scene.labels, (ROAD, PAVEMENT))
    rows, _ = np.nonzero(ground)
    slope, offset = np.polyfit(rows, scene.disparity[ground], 1)
    assert np.abs(slope * rows + offset - scene.disparity[ground]).max() < 1e-3
    assert slope == pytest.approx(BASELINE / 1.5, rel=1e-4)


def test_the_nearest_surface_wins():
    """Nothing on the ground is farther than the ground that it hides."""
    scene = render_scene(1)
    ground = np.isin(scene.labels, (ROAD, PAVEMENT))
    rows, _ = np.nonzero(ground)
    slope, offset = np.polyfit(rows, scene.disparity[ground], 1)
    plane = slope * np.arange(360)[:, None] + offset
    solid = scene.labels != SKY  # the ground itself ends at 300 m
    assert (scene.disparity >= plane - 1e-2)[solid].all()


def test_misuse():
    with pytest.raises(ValueError, match="at least 32"):
        render_scene(0, 16, 480)
    with pytest.raises(ValueError, match="seed >= 0"):
        render_scene(-1)
