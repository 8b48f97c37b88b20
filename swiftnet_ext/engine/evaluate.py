"""A network against a labelled data set."""

from typing import Any, Callable, Iterable, Optional

import numpy as np

from ..data.labelled import LabelledImages
from .ahead import READ_AHEAD, ahead
from .confusion import ConfusionMatrix


def evaluate(
    model: Any,
    data: LabelledImages,
    progress: Optional[Callable[[Iterable[int]], Iterable[int]]] = None,
    also: Iterable[Callable[[int, np.ndarray, np.ndarray], None]] = (),
) -> ConfusionMatrix:
    """Segments every picture of a data set, one at a time, and counts; the next is read while one is segmented.

    Args:
        model: has `segment(image)` and `num_classes`.
        data: pairs of pictures and labels.
        progress: wraps the range of indices, e.g. to draw a bar.
        also: each is called with every picture's index, prediction and labels, for other counts from the same pass.
    """
    matrix = ConfusionMatrix(model.num_classes)
    indices: Iterable[int] = range(len(data))
    pairs = ahead(data.__getitem__, indices, READ_AHEAD)
    for i, (image, labels) in zip(indices if progress is None else progress(indices), pairs):
        prediction = model.segment(image)
        matrix.update(prediction, labels)
        for update in also:
            update(i, prediction, labels)
    return matrix
