"""The order and the random changes of training samples: a function of seed, epoch and position, of nothing else.

Any number of worker processes gives the same samples, and a run goes on at any batch without replaying what was before.
"""

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.classes import overlay
from ..data.images import ImageError
from ..data.labelled import DataError
from ..data.transforms import Augmentation
from .config import ConfigError

SHOWN = 8  # samples on a contact sheet
Key = Tuple[int, int]  # epoch and index: what a sample depends on, beside the seed


class Samples(Dataset):  # type: ignore[type-arg]
    """Augmented crops of a data set, by (epoch, index).

    Args:
        data: gives (image uint8 [H, W, 3], labels uint8 [H, W]) by index.
        augmentation: what is random.
        seed: of the run.
        weights: makes uint8 [crop, crop] of a crop's labels, for a loss that weighs pixels.

    Items are dictionaries: image uint8 [3, crop, crop], labels uint8 [crop, crop], and weights where asked for.
    """

    def __init__(
        self,
        data: Any,
        augmentation: Augmentation,
        seed: int,
        weights: Optional[Callable[[np.ndarray], np.ndarray]] = None,
    ) -> None:
        self.data, self.augmentation, self.seed, self.weights = data, augmentation, seed, weights

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Dict[str, Tensor]:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        image, labels = self.data[index]
        image, labels = self.augmentation(image, labels, rng)
        sample = {"image": torch.from_numpy(image).permute(2, 0, 1), "labels": torch.from_numpy(labels)}
        if self.weights is not None:
            sample["weights"] = torch.from_numpy(self.weights(labels))
        return sample


def contact_sheet(samples: Samples, classes: Any) -> np.ndarray:
    """The first samples of the first epoch, each above its labels: uint8 [H, W, 3]."""
    columns = []
    for index in range(min(SHOWN, len(samples))):
        sample = samples[0, index]
        image = sample["image"].permute(1, 2, 0).numpy()
        columns.append(np.concatenate([image, overlay(image, sample["labels"].numpy(), classes)]))
    return np.concatenate(columns, 1)


class Batches:
    """An epoch's batches for one of `processes`, from a step on.

    A step takes batch · accumulate · processes samples of the epoch's permutation; process r has batches r, r + processes …
    of it, so that one process that accumulates 2 sees what 2 processes see. What is left of the permutation is dropped.

    Raises:
        ConfigError: fewer samples than a step takes.
    """

    def __init__(self, samples: int, batch: int, accumulate: int, rank: int, processes: int, seed: int) -> None:
        self.samples, self.batch, self.accumulate = samples, batch, accumulate
        self.rank, self.processes, self.seed = rank, processes, seed
        taken = batch * accumulate * processes
        self.steps = samples // taken  # in an epoch
        if self.steps == 0:
            raise ConfigError(
                f"run.batch: a step takes {taken} samples (run.batch · run.accumulate · processes), the training split "
                f"has {samples}; lower run.batch or run.accumulate"
            )

    def of(self, epoch: int, first_step: int = 0) -> Iterator[List[Key]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        for number in range(first_step * self.accumulate, self.steps * self.accumulate):
            start = (number * self.processes + self.rank) * self.batch
            yield [(epoch, int(i)) for i in order[start : start + self.batch]]


def load(
    samples: Samples, batches: Batches, epoch: int, first_step: int, workers: int, pin: bool
) -> Iterator[Dict[str, Tensor]]:
    """The epoch's batches from a step on; draws nothing from the process's own random numbers.

    Raises:
        DataError, ImageError: of a picture.
    """
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=list(batches.of(epoch, first_step)),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except (DataError, ImageError) as error:
        # a worker's error comes with its traceback, the message in the last line behind the class
        name, _, message = str(error).strip().rpartition(f"{type(error).__name__}: ")
        raise type(error)(message) if name else error
