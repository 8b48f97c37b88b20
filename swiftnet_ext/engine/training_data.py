"""What a run trains and validates on, looked at before the first step."""

from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np

from ..data.classes import ClassInfo, classes_for
from ..data.datasets import open_dataset
from ..data.labelled import Cached, DataError, LabelledImages, Selection, held_out
from .config import DataConfig

LOOKED_AT = 400  # label maps at most, evenly over the split


@dataclass
class TrainingData:
    """train and validation (or None); pixels int64 [classes] are counted in label maps of train."""

    train: LabelledImages
    validation: Optional[LabelledImages]
    pixels: np.ndarray
    warnings: List[str]


def open_training_data(config: DataConfig) -> TrainingData:
    """Opens the splits, and looks at labels.

    Raises:
        DataError: a data set that can't be used, or a split without a labelled pixel.
    """
    classes: Optional[Tuple[ClassInfo, ...]] = None
    if config.classes is not None:
        classes = classes_for(len(config.classes), config.classes)
    train = open_dataset(config.kind, config.root, config.split, classes=classes)
    validation: Optional[LabelledImages] = None
    if config.validation is not None:
        validation = open_dataset(config.kind, config.root, config.validation, classes=classes)
    elif config.hold_out:
        fit, held = held_out(train, config.hold_out)
        train, validation = Selection([(train, fit)]), Selection([(train, held)])
    if config.scenes:
        scenes = open_dataset("synthetic", "", "train", count=config.scenes)
        train = Selection([(train, range(len(train))), (scenes, range(len(scenes)))])
    if config.cache:
        train = cached = Cached(train)
        if config.workers:
            cached.read_all()
        validation = None if validation is None else Cached(validation)
    pixels, looked_at = _labelled_pixels(train, f"{config.root}: no labelled pixel in split {config.split!r}")
    if validation is not None:
        _labelled_pixels(validation, f"{config.root}: no labelled pixel to validate on; name another data.validation")
    unseen = [c.name for c, n in zip(train.classes, pixels) if n == 0]
    warnings = [f"no pixel of {', '.join(unseen)} in {looked_at} label maps"] if unseen else []
    return TrainingData(train, validation, pixels, warnings)


def _labelled_pixels(data: LabelledImages, none: str) -> Tuple[np.ndarray, int]:
    """([classes] pixels of each class, the number of label maps they are counted in). DataError, `none`: there are none."""
    pixels = np.zeros(data.num_classes, np.int64)
    looked_at = range(0, len(data), max(1, -(-len(data) // LOOKED_AT)))
    for i in looked_at:
        pixels += np.bincount(data.labels(i).ravel(), minlength=256)[: data.num_classes]
    if not pixels.any():
        raise DataError(none)
    return pixels, len(looked_at)
