"""mIoU by distance: a data set's pixels in groups of stereo disparity. Source: SwiftNet (CVPR 2019), supplementary, which
compares networks on the nearest and the farthest 5 % of the pixels.

Values are those of Cityscapes' maps: 0 is no measurement, disparity in pixels = (value - 1) / 256. Two passes keep one
picture in memory: the first makes a histogram of the values, the second counts in one confusion matrix for each group.
"""

import math
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..data.labelled import DataError, LabelledImages
from .confusion import ConfusionMatrix

PERCENT = 5  # of the pixels, nearest and farthest
VALUES = 65536
SCALE = 256  # values to a pixel of disparity


class Bin(NamedTuple):
    """Pixels whose values are first … last; share is theirs of all labelled and measured pixels, 0 to 1."""

    name: str
    first: int
    last: int
    pixels: int
    share: float
    matrix: ConfusionMatrix

    def record(self, classes: Sequence[str]) -> Dict[str, Any]:
        """For JSON: bounds in pixels of disparity, both inclusive; figures in percent, None where there are none."""
        iou, absent = 100 * self.matrix.iou(), self.matrix.absent()
        return {
            "name": self.name,
            "from_px": (self.first - 1) / SCALE,
            "to_px": (self.last - 1) / SCALE,
            "pixels": self.pixels,
            "share": 100 * self.share,
            "mIoU": None if len(absent) == len(classes) else 100 * self.matrix.mean_iou(),
            "IoU": {name: None if i in absent else iou[i] for i, name in enumerate(classes)},
            "absent": [classes[i] for i in absent],
        }


class DisparityBins:
    """Confusion matrices by disparity: of all measured pixels, the nearest and farthest 5 %, and between given edges.

    Args:
        data: opened with disparity=True.
        edges: in pixels of disparity, increasing; a bin holds from one edge up to, not including, the next. The last
            may be infinite.
        progress: wraps the range of indices of the first pass.

    Pixels without a label or a measurement are in no bin. A value is never divided: "nearest 5 %" are the fewest highest
    values that hold at least 5 % of the pixels, so its share may be larger, and is reported; "farthest 5 %" likewise.

    Raises:
        ValueError: edges that are no increasing sequence of at least two, from 0. DataError: no pixel has both a label
            and a measurement, or as the data set.
    """

    def __init__(
        self,
        data: LabelledImages,
        edges: Sequence[float] = (),
        progress: Optional[Callable[[Iterable[int]], Iterable[int]]] = None,
    ) -> None:
        check_edges(edges)
        self.data = data
        indices: Iterable[int] = range(len(data))
        histogram, labelled = _histogram(data, indices if progress is None else progress(indices))
        total = int(histogram.sum())
        if total == 0:
            raise DataError(
                f"no labelled pixel of {data.name(0)} and {len(data) - 1} more has a disparity: expected values from 1, "
                "got 0 everywhere; check the disparity maps"
            )
        self.measured = total / labelled
        self.bins: List[Bin] = []
        for name, first, last in _ranges(histogram, edges):
            pixels = int(histogram[first : last + 1].sum())
            self.bins.append(Bin(name, first, last, pixels, pixels / total, ConfusionMatrix(data.num_classes)))

    def update(self, index: int, prediction: np.ndarray, labels: np.ndarray) -> None:
        """Adds a picture of the data set: label maps [H, W], as `evaluate` passes them on."""
        raw = self.data.disparity(index, labels.shape)
        for group in self.bins:
            inside = (raw >= group.first) & (raw <= group.last)
            group.matrix.update(prediction[inside], labels[inside])

    def records(self, classes: Sequence[str]) -> List[Dict[str, Any]]:
        return [group.record(classes) for group in self.bins]


def check_edges(edges: Sequence[float]) -> None:
    """Edges are none, or at least two, increasing from 0 or more.

    Raises:
        ValueError: they are not.
    """
    if edges and (len(edges) < 2 or not edges[0] >= 0 or not all(a < b for a, b in zip(edges, edges[1:]))):
        given = ",".join(f"{edge:g}" for edge in edges)
        raise ValueError(
            f"disparity edges: expected at least two increasing numbers from 0, in pixels, got {given}; e.g. 0,16,32,inf"
        )


def _histogram(data: LabelledImages, indices: Iterable[int]) -> Tuple[np.ndarray, int]:
    """How many labelled pixels have each value, int64 [65536] with none at 0, and how many are labelled."""
    histogram, labelled = np.zeros(VALUES, np.int64), 0
    for i in indices:
        labels = data.labels(i)
        known = labels < data.num_classes
        labelled += int(known.sum())
        histogram += np.bincount(data.disparity(i, labels.shape)[known], minlength=VALUES)
    histogram[0] = 0
    return histogram, labelled


def _value(pixels: float) -> int:
    """The lowest value of at least this disparity; exact, because SCALE is a power of two."""
    return math.ceil(min(SCALE * pixels, VALUES - 1)) + 1


def _ranges(histogram: np.ndarray, edges: Sequence[float]) -> List[Tuple[str, int, int]]:
    """(name, first value, last value) of each bin."""
    enough = PERCENT * int(histogram.sum())  # in hundredths of pixels, where all is whole
    nearest = VALUES - 1 - int(np.argmax(100 * np.cumsum(histogram[::-1]) >= enough))
    farthest = int(np.argmax(100 * np.cumsum(histogram) >= enough))
    ranges = [
        ("all measured", 1, VALUES - 1),
        (f"nearest {PERCENT} %, from {(nearest - 1) / SCALE:.2f} px", nearest, VALUES - 1),
        (f"farthest {PERCENT} %, to {(farthest - 1) / SCALE:.2f} px", 1, farthest),
    ]
    for low, high in zip(edges, edges[1:]):
        name = f"{low:g} px and more" if math.isinf(high) else f"{low:g} to {high:g} px"
        ranges.append((name, _value(low), _value(high) - 1))
    return ranges
