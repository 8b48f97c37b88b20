"""Cityscapes in its own layout; label ids become the 19 classes that are evaluated. Source: Cordts et al. (CVPR 2016)."""

from pathlib import Path

import numpy as np

from .classes import CITYSCAPES
from .images import natural_order, read_labels
from .labelled import IGNORED, DataError, LabelledFiles, Pair, inside

# of the classes road, sidewalk, … bicycle, in the order of CITYSCAPES
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LAST_ID = 34  # licence plates; only what takes over Cityscapes' ids has pixels of it
_LABELS = np.full(256, IGNORED, np.uint8)
_LABELS[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))


class Cityscapes(LabelledFiles):
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

    Args:
        root: the folder of `leftImg8bit`.
        split: "train" or "val"; the test split's labels are not public.
        disparity: whether `disparity/SPLIT/CITY/*_disparity.png` is wanted too.

    Raises:
        DataError: no pictures, or LabelledFiles'.
    """

    def __init__(self, root: str, split: str, disparity: bool = False) -> None:
        top = Path(root).resolve()
        folder, suffix = top / "leftImg8bit" / split, "_leftImg8bit.png"
        inside(top, folder)
        images = sorted(folder.glob(f"*/*{suffix}"), key=natural_order)
        if not images:
            raise DataError(f"{folder}: holds no CITY/*{suffix}; unpack leftImg8bit and gtFine there")
        pairs = []
        for image in images:
            city, frame = image.parent.name, image.name[: -len(suffix)]
            labels = top / "gtFine" / split / city / f"{frame}_gtFine_labelIds.png"
            pairs.append(
                Pair(image, labels, top / "disparity" / split / city / f"{frame}_disparity.png" if disparity else None)
            )
        super().__init__(top, pairs, CITYSCAPES)

    def labels(self, index: int) -> np.ndarray:
        path = self.pairs[index].labels
        ids = read_labels(path)
        wrong = (ids > LAST_ID) & (ids != IGNORED)
        if wrong.any():
            raise DataError(f"{path}: label id {ids[wrong][0]}, expected 0 to {LAST_ID} or 255; use gtFine's labelIds")
        return _LABELS[ids]

    def sequence(self, index: int) -> str:
        """The city: most of its recordings have one labelled frame."""
        return self.pairs[index].image.parent.name

    def name(self, index: int) -> str:
        """CITY_SEQUENCE_FRAME."""
        return super().name(index)[: -len("_leftImg8bit")]
