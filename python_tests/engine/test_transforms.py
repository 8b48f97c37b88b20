"""What is done to a picture is done to its labels."""

import numpy as np
import pytest
from PIL import Image

from swiftnet_ext.data.labelled import IGNORED
from swiftnet_ext.data.transforms import GREY, PADDING, Augmentation, _recoloured

COLOURS = np.random.default_rng(0).integers(0, 256, (4, 3), np.uint8)


def blocks(height=90, width=120, cell=30):
    """A picture whose colours tell its labels, in blocks large enough to have an inside at every scale tried."""
    rows, columns = np.mgrid[0:height, 0:width] // cell
    labels = ((rows + 2 * columns) % 4).astype(np.uint8)
    return COLOURS[labels], labels


def test_without_chance_nothing_changes():
    image, labels = blocks(64, 64)
    rng = np.random.default_rng(0)
    out_image, out_labels = Augmentation(64, (1, 1), flip=0)(image, labels, rng)
    assert np.array_equal(out_image, image) and np.array_equal(out_labels, labels)


@pytest.mark.parametrize("seed", range(30))
def test_labels_follow_the_picture(seed):
    rng = np.random.default_rng(seed)
    image, labels = Augmentation(80, (0.5, 2.0), flip=0.5)(*blocks(), rng)
    assert image.shape == (80, 80, 3) and image.dtype == np.uint8
    assert labels.shape == (80, 80) and labels.dtype == np.uint8
    for value in range(4):  # where a colour is pure its label stands; resizing mixes colours at edges only
        pure = (image == COLOURS[value]).all(2)
        assert (labels[pure] == value).mean() > 0.97 if pure.any() else True
    known = labels != IGNORED
    expected = np.where(known[..., None], COLOURS[np.where(known, labels, 0)], np.array(PADDING, np.uint8))
    assert (np.abs(expected.astype(int) - image) <= 1).all(2).mean() > 0.8  # most pixels lie inside a block


def test_a_crop_is_the_scaled_pictures_crop():
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    labels = np.random.default_rng(2).integers(0, 11, (90, 120), np.uint8)
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    out_image, out_labels = Augmentation(64, (1.5, 1.5), flip=0)(image, labels, rng)
    again.uniform(1.5, 1.5)
    top, left = again.integers(0, 135 - 64 + 1), again.integers(0, 180 - 64 + 1)
    whole = np.asarray(Image.fromarray(image).resize((180, 135), Image.Resampling.BILINEAR))
    rows = (np.arange(135) + 0.5) * 90 / 135
    columns = (np.arange(180) + 0.5) * 120 / 180
    nearest = labels[rows.astype(int)][:, columns.astype(int)]
    window = np.s_[top : top + 64, left : left + 64]
    assert np.array_equal(out_labels, nearest[window])
    inside = np.s_[2:-2, 2:-2]  # at the crop's edge Pillow's filter does not reach beyond the box
    # Pillow rounds to 8 bits after each of its two passes, in either picture: at most 2 · (0.5 + 0.5) apart
    assert np.abs(out_image[inside].astype(int) - whole[window][inside]).max() <= 2


def test_outside_of_the_picture_is_ignored():
    image, labels = blocks(40, 40)
    out_image, out_labels = Augmentation(100, (1, 1))(image, labels, np.random.default_rng(0))
    assert (out_labels != IGNORED).sum() == 1600
    assert (out_image[out_labels == IGNORED] == PADDING).all()


def test_equal_seeds_equal_samples():
    augmentation = Augmentation(50, colour=0.3)
    runs = [augmentation(*blocks(), np.random.default_rng([1, 2, 3])) for _ in range(2)]
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])
    other, _ = augmentation(*blocks(), np.random.default_rng([1, 2, 4]))
    assert not np.array_equal(runs[0][0], other)


def test_colour_changes_pictures_only():
    image, labels = blocks()
    plain = Augmentation(60, flip=0)(image, labels, np.random.default_rng(5))
    coloured = Augmentation(60, flip=0, colour=0.4)(image, labels, np.random.default_rng(5))
    assert np.array_equal(plain[1], coloured[1]) and not np.array_equal(plain[0], coloured[0])


def test_colour_factors_by_their_formulas():
    image = np.random.default_rng(0).integers(40, 160, (8, 9, 3), np.uint8)
    assert np.array_equal(_recoloured(image, 1, 1, 1), image)
    assert np.abs(_recoloured(image, 1.5, 1, 1).astype(float) - 1.5 * image).max() <= 1
    grey = _recoloured(image, 1, 1, 0).astype(float)
    assert np.abs(grey - (image @ GREY)[..., None]).max() <= 1
    flat = _recoloured(image, 1, 0, 1)
    assert np.ptp(flat) == 0 and abs(float(flat[0, 0, 0]) - (image @ GREY).mean()) <= 1


def test_values_stay_in_range():
    image = np.array([[[0, 255, 0], [255, 255, 255]]], np.uint8)
    assert _recoloured(image, 2, 3, 3).tolist()[0][1] == [255, 255, 255]
