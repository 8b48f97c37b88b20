"""Folders of pictures and label maps: NAME/ and NAMEannot/, as CamVid is distributed; NAMEdisparity/ where wanted."""

from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from .images import SUFFIXES, ImageError, natural_order, read_disparity, read_image, read_labels

IGNORED = 255


class DataError(ValueError):
    """A data set that can't be used; the message names the file or folder and the cure."""


class Pair(NamedTuple):
    image: Path
    labels: Path
    disparity: Optional[Path] = None


class SegmentationFolder:
    """The pictures of `root/split` with the label maps of `root/<split>annot/<same stem>.png`.

    Args:
        root: the data set's folder.
        split: e.g. "val".
        num_classes: labels are 0 … num_classes - 1; num_classes and 255 mark pixels to be ignored.
        disparity: whether `root/<split>disparity/<same stem>.png` is wanted too, as Cityscapes' 16-bit disparity maps.

    Iterating gives (image uint8 [H, W, 3], labels uint8 [H, W] with 255 for ignored pixels), one pair in memory at a
    time.

    Raises:
        DataError: a missing folder, label map or disparity map, a path that leaves the data set's folder, sizes that
            differ, or labels out of range. ImageError: a picture that can't be read.
    """

    def __init__(self, root: str, split: str, num_classes: int, disparity: bool = False) -> None:
        self.root, self.split, self.num_classes = Path(root).resolve(), split, num_classes
        images, labels, disparities = (self.root / f"{split}{kind}" for kind in ("", "annot", "disparity"))
        for folder in (images, labels, disparities) if disparity else (images, labels):
            self._inside(folder)
            if not folder.is_dir():
                raise DataError(
                    f"{folder}: no such folder; a data set has {split}/ with pictures and {split}annot/ with labels"
                    + (f", and {split}disparity/ with disparity maps" if disparity else "")
                )
        names = sorted((p for p in images.iterdir() if p.suffix.lower() in SUFFIXES), key=natural_order)
        if not names:
            raise DataError(f"{images}: holds no pictures ({', '.join(SUFFIXES)})")
        self.pairs: List[Pair] = [
            Pair(p, labels / f"{p.stem}.png", disparities / f"{p.stem}.png" if disparity else None) for p in names
        ]
        for pair in self.pairs:
            self._inside(pair.image)
            self._inside(pair.labels)
            if not pair.labels.is_file():
                raise DataError(f"{pair.labels}: the label map of {pair.image.name} is missing")
            if pair.disparity is not None:
                self._inside(pair.disparity)
                if not pair.disparity.is_file():
                    raise DataError(
                        f"{pair.disparity}: the disparity map of {pair.image.name} is missing; copy it there"
                    )

    def _inside(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self.root):
            raise DataError(f"{path}: leaves the data set's folder {self.root}; copy the file there")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        pair = self.pairs[index]
        image, labels = read_image(pair.image), self.labels(index)
        if image.shape[:2] != labels.shape:
            raise DataError(f"{pair.labels}: is {labels.shape}, its picture {image.shape[:2]} (rows, columns)")
        return image, labels

    def labels(self, index: int) -> np.ndarray:
        """The labels of a pair alone, as in the pair."""
        pair = self.pairs[index]
        labels = read_labels(pair.labels)
        wrong = (labels > self.num_classes) & (labels != IGNORED)
        if wrong.any():
            value = int(labels[wrong][0])
            raise DataError(
                f"{pair.labels}: label {value}, expected 0 to {self.num_classes} ({self.num_classes} and 255: ignored)"
            )
        return np.where(labels == self.num_classes, IGNORED, labels).astype(np.uint8)

    def disparity(self, index: int, shape: Tuple[int, ...]) -> np.ndarray:
        """The disparity map of a pair, uint16 [H, W] of `read_disparity`; shape is its labels'."""
        path = self.pairs[index].disparity
        if path is None:
            raise DataError(f"{self.root}: was opened without disparity maps; pass disparity=True")
        raw = read_disparity(path)
        if raw.shape != shape:
            raise DataError(
                f"{path}: is {raw.shape}, its labels {shape} (rows, columns); store both in one size, without smoothing"
            )
        return raw


__all__ = ["DataError", "IGNORED", "ImageError", "Pair", "SegmentationFolder"]
