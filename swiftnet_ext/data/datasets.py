"""Every data set by its kind."""

from functools import lru_cache
from pathlib import Path
from typing import Optional, Tuple

import numpy as np

from .camvid import IMAGES, CamVidOriginal
from .cityscapes import Cityscapes
from .classes import CAMVID, ClassInfo
from .folder import SegmentationFolder
from .labelled import IGNORED, DataError, LabelledImages, Sample
from .synthetic import UNLABELLED, Scene, render_scene

KINDS = ("auto", "folder", "camvid", "cityscapes", "synthetic")
SCENES = {"train": (1000, 200), "val": (0, 50)}  # of each split the first seed, and how many


class SyntheticScenes(LabelledImages):
    """Rendered road scenes with exact labels and disparity, in CamVid's classes; nothing is read.

    Args:
        split: "train" or "val", which have no scene in common.
        count: of scenes; 200 to train on, 50 to validate on.
    """

    classes = CAMVID

    def __init__(self, split: str, count: Optional[int] = None) -> None:
        if split not in SCENES:
            raise DataError(f"split {split!r}: rendered scenes have {' and '.join(SCENES)}")
        self.first, usual = SCENES[split]
        self.count = usual if count is None else count
        if split == "val" and self.count > SCENES["train"][0]:
            raise DataError(
                f"count: at most {SCENES['train'][0]} scenes to validate on, got {count}: more are trained on"
            )

    def __len__(self) -> int:
        return self.count

    def _scene(self, index: int) -> Scene:
        return _rendered(self.first + range(self.count)[index])

    def __getitem__(self, index: int) -> Sample:
        return self._scene(index).image, self.labels(index)

    def labels(self, index: int) -> np.ndarray:
        labels = self._scene(index).labels
        return np.where(labels == UNLABELLED, IGNORED, labels).astype(np.uint8)

    def disparity(self, index: int, shape: Tuple[int, ...]) -> np.ndarray:
        pixels = self._scene(index).disparity
        raw = np.minimum(256 * pixels + 1, 65535).astype(np.uint16)
        return np.where(pixels > 0, raw, np.uint16(0))  # a stereo pair measures no sky

    def name(self, index: int) -> str:
        return f"scene_{self.first + range(self.count)[index]}"

    def sequence(self, index: int) -> str:
        return self.name(index)


@lru_cache(maxsize=1)  # a picture, its labels and its disparity are asked for one after the other
def _rendered(seed: int) -> Scene:
    return render_scene(seed)


def open_dataset(
    kind: str,
    root: str,
    split: str,
    *,
    classes: Optional[Tuple[ClassInfo, ...]] = None,
    disparity: bool = False,
    count: Optional[int] = None,
) -> LabelledImages:
    """A labelled data set.

    Args:
        kind: "folder" (NAME/ and NAMEannot/, or any two folders), "camvid" (like that, or as its authors distribute it),
            "cityscapes", "synthetic" (rendered scenes), or "auto": by what lies in root.
        root: its folder.
        split: e.g. "train"; for folders by name see SegmentationFolder.
        classes: expected, names and colours; CamVid's for "folder" where left out.
        disparity: whether disparity maps are wanted.
        count: of "synthetic".

    Raises:
        DataError: an unknown kind, other classes than expected, or the data set's own.
    """
    if kind not in KINDS:
        raise DataError(f"data set of kind {kind!r}: expected one of {', '.join(KINDS)}")
    if kind == "auto":
        kind = _kind_of(Path(root))
    if kind == "folder" or (kind == "camvid" and not (Path(root) / IMAGES).is_dir()):
        wanted = CAMVID if classes is None or kind == "camvid" else classes
        data: LabelledImages = SegmentationFolder(root, split, len(wanted), disparity, wanted)
    elif kind == "camvid":
        if disparity:
            raise DataError(f"{root}: CamVid has no disparity maps")
        data = CamVidOriginal(root, split)
    elif kind == "cityscapes":
        data = Cityscapes(root, split, disparity)
    else:
        data = SyntheticScenes(split, count)
    if classes is not None and [c.name for c in classes] != [c.name for c in data.classes]:
        theirs, expected = (", ".join(c.name for c in some) for some in (data.classes, classes))
        raise DataError(f"{root}: the labels are {theirs}; the network's classes are {expected}")
    return data


def _kind_of(root: Path) -> str:
    if (root / "leftImg8bit").is_dir():
        return "cityscapes"
    return "camvid" if (root / IMAGES).is_dir() else "folder"
