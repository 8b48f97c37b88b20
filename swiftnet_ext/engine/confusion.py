"""Counting predictions against labels."""

from typing import List

import numpy as np


class ConfusionMatrix:
    """Pixel counts [target class, predicted class], added up over any number of label maps.

    Args:
        num_classes: targets outside 0 … num_classes - 1 are ignored; a prediction outside is a miss of its target.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.table = np.zeros((num_classes, num_classes + 1), np.int64)  # the last column: predictions of no class

    @property
    def counts(self) -> np.ndarray:
        return self.table[:, : self.num_classes]

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Adds label maps of one shape, integers of any width.

        Raises:
            ValueError: the shapes differ.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction: expected the target's shape {target.shape}, got {prediction.shape}")
        known = (target >= 0) & (target < self.num_classes)
        predicted, wanted = prediction[known].astype(np.int64), target[known].astype(np.int64)
        predicted[(predicted < 0) | (predicted >= self.num_classes)] = self.num_classes
        columns = self.num_classes + 1
        self.table += np.bincount(wanted * columns + predicted, minlength=self.table.size).reshape(self.table.shape)

    def iou(self) -> np.ndarray:
        """Intersection over union of each class, 0 to 1; NaN for a class in neither targets nor predictions."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.table.sum(1) + self.counts.sum(0) - hits
        return np.divide(hits, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    def absent(self) -> List[int]:
        """The classes in neither targets nor predictions."""
        return [int(i) for i in np.flatnonzero(np.isnan(self.iou()))]

    def mean_iou(self) -> float:
        """The mean over classes that are not absent.

        Raises:
            ValueError: all are.
        """
        iou = self.iou()
        if np.isnan(iou).all():
            raise ValueError("mean_iou: no labelled pixel was counted; check the labels")
        return float(np.nanmean(iou))
