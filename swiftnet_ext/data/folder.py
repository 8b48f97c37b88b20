"""Folders of pictures and label maps: NAME/ and NAMEannot/, as CamVid is distributed by SegNet's tutorial."""

from pathlib import Path
from typing import Optional, Sequence, Tuple

from .classes import ClassInfo, classes_for
from .images import SUFFIXES, natural_order
from .labelled import DataError, LabelledFiles, Pair, inside


class SegmentationFolder(LabelledFiles):
    """The pictures of `root/split` with the label maps of `root/<split>annot/<same stem>.png`.

    Args:
        root: the data set's folder.
        split: e.g. "val"; or folders by name, "PICTURES:LABELS" or "PICTURES:LABELS:DISPARITIES".
        num_classes: labels are 0 … num_classes - 1; num_classes and 255 mark pixels to be ignored.
        disparity: whether `root/<split>disparity/<same stem>.png` is wanted too, as Cityscapes' 16-bit disparity maps.
        classes: names and colours, where they are not those of `classes_for(num_classes)`.

    Raises:
        DataError: a missing folder, or LabelledFiles'.
    """

    def __init__(
        self,
        root: str,
        split: str,
        num_classes: int,
        disparity: bool = False,
        classes: Optional[Tuple[ClassInfo, ...]] = None,
    ) -> None:
        self.split, top = split, Path(root).resolve()
        images, labels, disparities = (top / name for name in _folders(split))
        for folder in (images, labels, disparities) if disparity else (images, labels):
            inside(top, folder)
            if not folder.is_dir():
                raise DataError(
                    f"{folder}: no such folder; a data set has {images.name}/ with pictures and {labels.name}/ with labels"
                    + (f", and {disparities.name}/ with disparity maps" if disparity else "")
                )
        names = sorted((p for p in images.iterdir() if p.suffix.lower() in SUFFIXES), key=natural_order)
        if not names:
            raise DataError(f"{images}: holds no pictures ({', '.join(SUFFIXES)})")
        pairs = [Pair(p, labels / f"{p.stem}.png", disparities / f"{p.stem}.png" if disparity else None) for p in names]
        super().__init__(top, pairs, classes or classes_for(num_classes))


def _folders(split: str) -> Sequence[str]:
    """The names of the folders of pictures, labels and disparities."""
    named = split.split(":")
    if len(named) == 1:
        return split, f"{split}annot", f"{split}disparity"
    if len(named) > 3 or not all(named):
        raise DataError(f"split {split!r}: expected NAME, PICTURES:LABELS or PICTURES:LABELS:DISPARITIES")
    return named[0], named[1], named[2] if len(named) == 3 else f"{named[0]}disparity"
