"""What all labelled data sets have in common, and ways to put them together."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .classes import ClassInfo
from .images import read_disparity, read_image, read_labels

IGNORED = 255

Sample = Tuple[np.ndarray, np.ndarray]


class DataError(ValueError):
    """A data set that can't be used; the message names the file or folder and the cure."""


class LabelledImages(ABC):
    """Pictures with label maps.

    Iterating gives (image uint8 [H, W, 3], labels uint8 [H, W] with 255 for ignored pixels), one pair in memory at a
    time. `classes` are the labels' names and colours, 0 first.
    """

    classes: Tuple[ClassInfo, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def labels(self, index: int) -> np.ndarray:
        """The labels of a pair alone, as in the pair."""

    @abstractmethod
    def disparity(self, index: int, shape: Tuple[int, ...]) -> np.ndarray:
        """The disparity map of a pair, uint16 [H, W] of `read_disparity`; shape is its labels'."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a pair in reports."""

    @abstractmethod
    def sequence(self, index: int) -> str:
        """The recording that a picture is of: its neighbours look alike."""


class Pair(NamedTuple):
    image: Path
    labels: Path
    disparity: Optional[Path] = None


class LabelledFiles(LabelledImages):
    """Pictures and label maps in files below one folder.

    Args:
        root: no path may leave it.
        pairs: the files.
        classes: of the labels.

    Raises:
        DataError: a missing label or disparity map, a path that leaves the folder, sizes that differ, or labels out of
            range. ImageError: a picture that can't be read.
    """

    def __init__(self, root: Path, pairs: Sequence[Pair], classes: Tuple[ClassInfo, ...]) -> None:
        self.root, self.pairs, self.classes = root, list(pairs), classes
        for pair in self.pairs:
            inside(root, pair.image)
            inside(root, pair.labels)
            if not pair.labels.is_file():
                raise DataError(f"{pair.labels}: the label map of {pair.image.name} is missing")
            if pair.disparity is not None:
                inside(root, pair.disparity)
                if not pair.disparity.is_file():
                    raise DataError(
                        f"{pair.disparity}: the disparity map of {pair.image.name} is missing; copy it there"
                    )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, labels = read_image(pair.image), self.labels(index)
        if image.shape[:2] != labels.shape:
            raise DataError(f"{pair.labels}: is {labels.shape}, its picture {image.shape[:2]} (rows, columns)")
        return image, labels

    def labels(self, index: int) -> np.ndarray:
        path, count = self.pairs[index].labels, self.num_classes
        labels = read_labels(path)
        wrong = (labels > count) & (labels != IGNORED)
        if wrong.any():
            value = int(labels[wrong][0])
            raise DataError(f"{path}: label {value}, expected 0 to {count} ({count} and 255: ignored)")
        return np.where(labels == count, IGNORED, labels).astype(np.uint8)

    def disparity(self, index: int, shape: Tuple[int, ...]) -> np.ndarray:
        path = self.pairs[index].disparity
        if path is None:
            raise DataError(f"{self.root}: was opened without disparity maps; pass disparity=True")
        raw = read_disparity(path)
        if raw.shape != shape:
            raise DataError(
                f"{path}: is {raw.shape}, its labels {shape} (rows, columns); store both in one size, without smoothing"
            )
        return raw

    def name(self, index: int) -> str:
        return self.pairs[index].image.stem

    def sequence(self, index: int) -> str:
        """What is before the last underscore of the name: CamVid's 0001TP_006690 is frame 6690 of 0001TP."""
        before, _, _ = self.name(index).rpartition("_")
        return before


def inside(root: Path, path: Path) -> None:
    """
    Raises:
        DataError: the path leaves the data set's folder, by itself or by a link.
    """
    if not path.resolve().is_relative_to(root):
        raise DataError(f"{path}: leaves the data set's folder {root}; copy the file there")


class Selection(LabelledImages):
    """Pairs of data sets of the same classes: each a data set and an index.

    Raises:
        DataError: their classes differ.
    """

    def __init__(self, parts: Sequence[Tuple[LabelledImages, Iterable[int]]]) -> None:
        first = parts[0][0]
        self.classes = first.classes
        for part, _ in parts:
            if part.classes != self.classes:
                theirs, expected = (", ".join(c.name for c in data.classes) for data in (part, first))
                raise DataError(f"data sets of different classes can't be joined: {expected}; {theirs}")
        self.places = [(part, i) for part, indices in parts for i in indices]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        part, i = self.places[index]
        return part[i]

    def labels(self, index: int) -> np.ndarray:
        part, i = self.places[index]
        return part.labels(i)

    def disparity(self, index: int, shape: Tuple[int, ...]) -> np.ndarray:
        part, i = self.places[index]
        return part.disparity(i, shape)

    def name(self, index: int) -> str:
        part, i = self.places[index]
        return part.name(i)

    def sequence(self, index: int) -> str:
        part, i = self.places[index]
        return part.sequence(i)


class Cached(Selection):
    """Keeps every pair in memory once it has been read: 4 bytes a pixel."""

    def __init__(self, data: LabelledImages) -> None:
        super().__init__([(data, range(len(data)))])
        self._kept: Dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = super().__getitem__(index)
        return self._kept[index]

    def labels(self, index: int) -> np.ndarray:
        return self[index][1]

    def read_all(self) -> None:
        """Now, so that processes forked later share what is kept instead of each reading its own."""
        for index in range(len(self)):
            self[index]


def held_out(data: LabelledImages, share: float) -> Tuple[List[int], List[int]]:
    """(indices to train on, indices to validate on): the last `share` of every sequence is held out, in one piece, so
    that frames to train on and to validate on are not neighbours.

    At least one frame of each sequence is held out, and one is not; of a sequence of one frame none is.

    Raises:
        DataError: nothing is held out.
    """
    sequences: Dict[str, List[int]] = {}
    for i in range(len(data)):
        sequences.setdefault(data.sequence(i), []).append(i)
    fit: List[int] = []
    held: List[int] = []
    for indices in sequences.values():
        count = min(max(1, round(share * len(indices))), len(indices) - 1)
        fit += indices[: len(indices) - count]
        held += indices[len(indices) - count :]
    if not held:
        raise DataError(f"nothing to hold out: {len(data)} pictures of as many sequences")
    return sorted(fit), sorted(held)
