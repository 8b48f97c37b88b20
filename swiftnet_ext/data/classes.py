"""Class names and colours, and pictures of label maps."""

import colorsys
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

Colour = Tuple[int, int, int]


class ClassInfo(NamedTuple):
    name: str
    colour: Colour  # RGB


# the colours of the data sets' own label pictures
CAMVID = (
    ClassInfo("Sky", (128, 128, 128)),
    ClassInfo("Building", (128, 0, 0)),
    ClassInfo("Pole", (192, 192, 128)),
    ClassInfo("Road", (128, 64, 128)),
    ClassInfo("Pavement", (60, 40, 222)),
    ClassInfo("Tree", (128, 128, 0)),
    ClassInfo("SignSymbol", (192, 128, 128)),
    ClassInfo("Fence", (64, 64, 128)),
    ClassInfo("Car", (64, 0, 128)),
    ClassInfo("Pedestrian", (64, 64, 0)),
    ClassInfo("Bicyclist", (0, 128, 192)),
)
CITYSCAPES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sidewalk", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("wall", (102, 102, 156)),
    ClassInfo("fence", (190, 153, 153)),
    ClassInfo("pole", (153, 153, 153)),
    ClassInfo("traffic light", (250, 170, 30)),
    ClassInfo("traffic sign", (220, 220, 0)),
    ClassInfo("vegetation", (107, 142, 35)),
    ClassInfo("terrain", (152, 251, 152)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("person", (220, 20, 60)),
    ClassInfo("rider", (255, 0, 0)),
    ClassInfo("car", (0, 0, 142)),
    ClassInfo("truck", (0, 0, 70)),
    ClassInfo("bus", (0, 60, 100)),
    ClassInfo("train", (0, 80, 100)),
    ClassInfo("motorcycle", (0, 0, 230)),
    ClassInfo("bicycle", (119, 11, 32)),
)


def classes_for(num_classes: int, names: Optional[Sequence[str]] = None) -> Tuple[ClassInfo, ...]:
    """CamVid's or Cityscapes' classes, by their names or, where there are none, by their number (11, 19); else colours
    that differ, and numbered classes where there are no names."""
    for known in (CAMVID, CITYSCAPES):
        if num_classes == len(known) and (names is None or [c.name for c in known] == list(names)):
            return known
    if names is None:
        names = [f"class {i}" for i in range(num_classes)]
    golden = 0.618034  # steps of the golden ratio keep any number of hues apart
    hues = [colorsys.hsv_to_rgb(i * golden % 1, 0.65, 0.9) for i in range(num_classes)]
    return tuple(ClassInfo(n, (int(255 * r), int(255 * g), int(255 * b))) for n, (r, g, b) in zip(names, hues))


def colourise(labels: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """Labels uint8 [H, W] as colours uint8 [H, W, 3]; labels that are no class are black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = [c.colour for c in classes]
    return palette[labels]


def overlay(image: np.ndarray, labels: np.ndarray, classes: Sequence[ClassInfo], opacity: float = 0.55) -> np.ndarray:
    """The image uint8 [H, W, 3] under its labels' colours."""
    return np.asarray((1 - opacity) * image + opacity * colourise(labels, classes) + 0.5, dtype=np.uint8)


def legend(classes: Sequence[ClassInfo]) -> np.ndarray:
    """A picture uint8 [h, w, 3] with each class's colour, number and name."""
    row = 22
    picture = Image.new("RGB", (40 + 7 * max(len(c.name) + 4 for c in classes), row * len(classes) + 8), "white")
    draw = ImageDraw.Draw(picture)
    for i, c in enumerate(classes):
        top = 6 + i * row
        draw.rectangle((6, top, 26, top + 15), fill=c.colour, outline="black")
        draw.text((34, top + 2), f"{i:2d} {c.name}", fill="black")
    return np.asarray(picture)
