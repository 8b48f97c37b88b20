"""What training minimises: cross-entropy, and the boundary-aware focal loss of SwiftNet's second generation."""

from typing import Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..data.labelled import IGNORED

NEAR_BOUNDARY = (8, 4, 2, 1)  # weights of the bins of distance, the nearest first
FOCUS = 0.5


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Optional[Tensor] = None) -> Tensor:
    """The mean of -log p(label), weighted by class, over the pixels that have a label; 0 where none has.

    Args:
        logits: [N, classes, H, W].
        labels: uint8 [N, H, W], 255 for ignored pixels.
        class_weights: [classes].
    """
    known = labels != IGNORED
    target = labels.long()
    total = F.cross_entropy(logits.float(), target, class_weights, ignore_index=IGNORED, reduction="sum")
    if class_weights is None:
        return total / known.sum().clamp(min=1)
    return total / class_weights[target[known]].sum().clamp(min=torch.finfo(torch.float32).tiny)


def boundary_focal(logits: Tensor, labels: Tensor, boundary: Tensor, class_weights: Optional[Tensor] = None) -> Tensor:
    """The mean of -boundary · exp(0.5 (1 - p)) · log p over the pixels that have a label, p the probability of the label.

    The exponential is a weight: no gradient flows through it. Source: "Efficient semantic segmentation with pyramidal
    fusion" (2020).

    Args:
        logits, labels, class_weights: as cross_entropy.
        boundary: uint8 [N, H, W], of `boundary_weights`.
    """
    target = labels.long()
    each = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none")
    weight = boundary.float() * torch.exp(FOCUS * (1 - torch.exp(-each.detach())))
    if class_weights is not None:
        weight = weight * class_weights[torch.where(labels == IGNORED, 0, target)]
    return (weight * each).sum() / (labels != IGNORED).sum().clamp(min=1)


def boundary_weights(labels: np.ndarray, bins: Sequence[float]) -> np.ndarray:
    """uint8 [H, W]: 8, 4, 2, 1 by the distance to the nearest pixel of another class, below bins[0], [1], [2] pixels and
    beyond. Source: as boundary_focal, with bins 16, 64, 128 on Cityscapes; but ignored pixels make no boundary here."""
    edge = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differs = (labels[a] != labels[b]) & (labels[a] != IGNORED) & (labels[b] != IGNORED)
        edge[a] |= differs
        edge[b] |= differs
    if not edge.any():
        return np.full(labels.shape, NEAR_BOUNDARY[-1], np.uint8)
    distance = distance_transform_edt(~edge) + 1  # an edge's own pixels have their neighbour 1 away
    return np.asarray(NEAR_BOUNDARY, np.uint8)[np.digitize(distance, bins)]


def class_weights(pixels: np.ndarray, power: float) -> np.ndarray:
    """float32 [classes]: (median frequency / frequency)^power; power 1 is median frequency balancing, 0 is none.

    Args:
        pixels: of each class, in the training labels; a class without any has weight 1.

    Source: Eigen and Fergus, "Predicting depth, surface normals and semantic labels" (ICCV 2015), as SegNet uses it.
    """
    present = pixels > 0
    weights = np.ones(len(pixels), np.float32)
    weights[present] = (np.median(pixels[present]) / pixels[present]) ** power
    return weights
