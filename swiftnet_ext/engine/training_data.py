"""What a run trains and validates on, looked at before the first step."""

from dataclasses import dataclass
from typing import Any, List, Optional

import numpy as np

from ..data.datasets import Cached, Joined, Subset, held_out, open_dataset
from ..data.folder import DataError
from .config import DataConfig

LOOKED_AT = 400  # label maps at most, evenly over the split


@dataclass
class TrainingData:
    """train and validation (or None) give (image, labels); pixels int64 [classes] are counted in label maps of train."""

    train: Any
    validation: Optional[Any]
    pixels: np.ndarray
    warnings: List[str]


def open_training_data(config: DataConfig) -> TrainingData:
    """Opens the splits, and looks at labels.

    Raises:
        DataError: a data set that can't be used, or without a labelled pixel.
    """
    train: Any = open_dataset(config.kind, config.root, config.split)
    validation: Optional[Any] = None
    if config.validation is not None:
        validation = open_dataset(config.kind, config.root, config.validation)
    elif config.hold_out:
        fit, held = held_out(train, config.hold_out)
        train, validation = Subset(train, fit), Subset(train, held)
    if config.scenes:
        train = Joined([train, open_dataset("synthetic", config.root, "train", count=config.scenes)])
    step = -(-len(train) // LOOKED_AT)
    pixels = np.zeros(train.num_classes, np.int64)
    for i in range(0, len(train), step):
        pixels += np.bincount(train.labels(i).ravel(), minlength=256)[: train.num_classes]
    if not pixels.any():
        raise DataError(f"{config.root}: no labelled pixel in split {config.split!r}")
    unseen = [c.name for c, n in zip(train.classes, pixels) if n == 0]
    looked = len(range(0, len(train), step))
    warnings = [f"no pixel of {', '.join(unseen)} in {looked} label maps of {config.split!r}"] if unseen else []
    if config.cache:
        train, validation = Cached(train), None if validation is None else Cached(validation)
    return TrainingData(train, validation, pixels, warnings)
