"""Joint transforms of pictures and label maps for training: scale, crop, flip, colour."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np
from PIL import Image

from .labelled import IGNORED

PADDING = (124, 116, 104)  # RGB: ImageNet's mean, 0 after normalisation
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma

Array = np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """What is random about a training sample.

    Args:
        crop: side of the square that is cut out, in pixels.
        scale: the smallest and largest factor of the picture's size, drawn uniformly.
        flip: probability of mirroring left and right.
        colour: brightness, contrast and saturation change by factors of 1 - colour to 1 + colour, each on its own.
    """

    crop: int
    scale: Tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    colour: float = 0.0

    def __call__(self, image: Array, labels: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        """uint8 [H, W, 3] and uint8 [H, W] to [crop, crop, 3] and [crop, crop]; what lies outside the picture is
        ImageNet's mean colour, and ignored. Everything random comes from rng."""
        image, labels = self._window(image, labels, rng)
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.colour > 0:
            image = _recoloured(image, *rng.uniform(1 - self.colour, 1 + self.colour, 3))
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)

    def _window(self, image: Array, labels: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        """The crop out of the scaled picture; only the part of it that is seen is resized."""
        factor = rng.uniform(*self.scale)
        spans = [_Span.random(size, factor, self.crop, rng) for size in labels.shape]
        rows, columns = spans
        size = columns.stop - columns.start, rows.stop - rows.start
        box = (columns.first, rows.first, columns.last, rows.last)
        cut_image = np.full((self.crop, self.crop, 3), PADDING, np.uint8)
        cut_labels = np.full((self.crop, self.crop), IGNORED, np.uint8)
        where = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        cut_image[where] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box))
        cut_labels[where] = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST, box))
        return cut_image, cut_labels


@dataclass(frozen=True)
class _Span:
    """One side of a crop: cells start … stop of it show what lies between first and last in the picture."""

    start: int
    stop: int
    first: float
    last: float

    @staticmethod
    def random(size: int, factor: float, crop: int, rng: np.random.Generator) -> "_Span":
        scaled = max(1, round(size * factor))
        low, high = sorted((0, scaled - crop))
        offset = int(rng.integers(low, high + 1))  # of the crop in the scaled picture; negative where it is larger
        first, last = max(0, offset), min(scaled, offset + crop)
        return _Span(first - offset, last - offset, first * size / scaled, last * size / scaled)


def _recoloured(image: Array, brightness: float, contrast: float, saturation: float) -> Array:
    """Factors of the values, of their distance from the mean luma, and of their distance from each pixel's luma."""
    values = image.astype(np.float32) * np.float32(brightness)
    luma = values @ GREY
    mean = luma.mean()
    values = luma[..., None] + np.float32(saturation) * (values - luma[..., None])
    return np.clip(mean + np.float32(contrast) * (values - mean) + 0.5, 0, 255).astype(np.uint8)
