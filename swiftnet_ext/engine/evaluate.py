"""A network against a labelled data set."""

from typing import Any, Callable, Iterable, Optional

from ..data.folder import SegmentationFolder
from .confusion import ConfusionMatrix


def evaluate(
    model: Any, data: SegmentationFolder, progress: Optional[Callable[[Iterable[int]], Iterable[int]]] = None
) -> ConfusionMatrix:
    """Segments every picture of a data set, one at a time, and counts.

    Args:
        model: has `segment(image)` and `num_classes`.
        data: pairs of pictures and labels.
        progress: wraps the range of indices, e.g. to draw a bar.
    """
    matrix = ConfusionMatrix(model.num_classes)
    indices: Iterable[int] = range(len(data))
    for i in indices if progress is None else progress(indices):
        image, labels = data[i]
        matrix.update(model.segment(image), labels)
    return matrix
