"""CamVid in the layout of its authors: 960×720 pictures, labels as colours of 32 classes, splits as lists of names.

Colours are those of CamVid's label_colors.txt; 31 of the classes make SegNet's 11 (Badrinarayanan, Kendall, Cipolla, 2017).
"""

from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from .classes import CAMVID
from .images import read_image
from .labelled import IGNORED, DataError, LabelledFiles, Pair

IMAGES, LABELS = "701_StillsRaw_full", "LabeledApproved_full"
Colour = Tuple[int, int, int]

GROUPS: Dict[str, Dict[str, Colour]] = {
    "Sky": {"Sky": (128, 128, 128)},
    "Building": {
        "Archway": (192, 0, 128),
        "Bridge": (0, 128, 64),
        "Building": (128, 0, 0),
        "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "Pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "Road": {"LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64), "Road": (128, 64, 128)},
    "Pavement": {"ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192), "Sidewalk": (0, 0, 192)},
    "Tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "SignSymbol": {"Misc_Text": (128, 128, 64), "SignSymbol": (192, 128, 128), "TrafficLight": (0, 64, 64)},
    "Fence": {"Fence": (64, 64, 128)},
    "Car": {
        "Car": (64, 0, 128),
        "OtherMoving": (128, 64, 64),
        "SUVPickupTruck": (64, 128, 192),
        "Train": (192, 64, 128),
        "Truck_Bus": (192, 128, 192),
    },
    "Pedestrian": {
        "Animal": (64, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Child": (192, 128, 64),
        "Pedestrian": (64, 64, 0),
    },
    "Bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}
VOID: Colour = (0, 0, 0)


def _code(colours: np.ndarray) -> np.ndarray:
    """RGB uint8 [..., 3] as one number each."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _table() -> Tuple[np.ndarray, np.ndarray]:
    """(codes, ascending; their labels)."""
    names = [c.name for c in CAMVID]
    pairs = [(colour, names.index(group)) for group, members in GROUPS.items() for colour in members.values()]
    colours, labels = zip(*[*pairs, (VOID, IGNORED)])
    codes = _code(np.array(colours))
    order = np.argsort(codes)
    return codes[order], np.array(labels, np.uint8)[order]


CODES, CODE_LABELS = _table()


class CamVidOriginal(LabelledFiles):
    """`701_StillsRaw_full/NAME.png` and `LabeledApproved_full/NAME_L.png` for the names listed in `SPLIT.txt`.

    Args:
        root: the data set's folder.
        split: "train", "val" or "test": a file of one name a line (a path or a suffix may be around it).

    Raises:
        DataError: no such list, a name without a picture, an unknown colour, or LabelledFiles'.
    """

    def __init__(self, root: str, split: str) -> None:
        top = Path(root).resolve()
        listed = top / f"{split}.txt"
        if not listed.is_file():
            raise DataError(
                f"{listed}: no such file; write the split's pictures there, a name a line, e.g. 0001TP_006690"
            )
        stems = [Path(line.split()[0]).stem for line in listed.read_text().splitlines() if line.strip()]
        if not stems:
            raise DataError(f"{listed}: names no pictures; write one a line, e.g. 0001TP_006690")
        pairs: List[Pair] = []
        for stem in stems:
            image = top / IMAGES / f"{stem}.png"
            if not image.is_file():
                raise DataError(f"{image}: no such picture, but {listed.name} names it")
            pairs.append(Pair(image, top / LABELS / f"{stem}_L.png"))
        super().__init__(top, pairs, CAMVID)

    def labels(self, index: int) -> np.ndarray:
        path = self.pairs[index].labels
        codes = _code(read_image(path))
        places = np.minimum(np.searchsorted(CODES, codes), len(CODES) - 1)
        unknown = CODES[places] != codes
        if unknown.any():
            code = int(codes[unknown][0])
            colour = (code >> 16, code >> 8 & 255, code & 255)
            raise DataError(
                f"{path}: colour {colour} is none of CamVid's 32; store it as PNG, and resize by nearest only"
            )
        return CODE_LABELS[places]
