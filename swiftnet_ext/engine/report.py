"""What an evaluation leaves to look at: figures by picture, charts, and the worst pictures."""

import heapq
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from ..data.classes import colourise, legend
from ..data.images import write_image
from ..data.labelled import IGNORED, LabelledImages
from ..files import replacing
from .charts import class_bars, confusion, panels
from .confusion import ConfusionMatrix

WRONG, RIGHT, UNKNOWN = (213, 94, 0), (235, 235, 235), (0, 0, 0)
_WORST = re.compile(r"\d{2,}_.*_\d+\.png")  # place, name, mIoU


class Report:
    """Figures of every picture, and the worst ones; give `update` to `evaluate` as `also`.

    Args:
        data: what is evaluated.
        worst: how many pictures to show.

    A picture's mIoU is the mean over the classes in its labels. Only the worst pictures' predictions are kept in memory.
    """

    def __init__(self, data: LabelledImages, worst: int = 8) -> None:
        self.data, self.worst = data, worst
        self.pictures: List[Dict[str, Any]] = []
        self._worst: List[Tuple[float, int, np.ndarray]] = []  # a heap: the best of them first

    def update(self, index: int, prediction: np.ndarray, labels: np.ndarray) -> None:
        matrix = ConfusionMatrix(self.data.num_classes)
        matrix.update(prediction, labels)
        pixels = matrix.table.sum(1)
        present = pixels > 0
        record: Dict[str, Any] = {"name": self.data.name(index), "mIoU": None, "accuracy": None}
        if present.any():
            record["mIoU"] = float(100 * matrix.iou()[present].mean())
            record["accuracy"] = float(100 * np.trace(matrix.counts) / pixels.sum())
            heapq.heappush(self._worst, (-record["mIoU"], index, prediction))
            if len(self._worst) > self.worst:
                heapq.heappop(self._worst)
        self.pictures.append(record)

    def write(self, folder: Path, matrix: ConfusionMatrix, figures: Dict[str, Any]) -> None:
        """Writes report.json (figures, and every picture's), confusion.png, iou.png, worst/ and worst/legend.png.

        Pictures of an earlier report in worst/ are removed.

        Raises:
            OSError: a file can't be written.
        """
        (folder / "worst").mkdir(parents=True, exist_ok=True)
        names = [c.name for c in self.data.classes]
        confusion(matrix.counts, names, folder / "confusion.png", "Confusion matrix")
        class_bars({"IoU": figures["IoU"]}, folder / "iou.png", f"mIoU {figures['mIoU']:.2f} %")
        for earlier in (folder / "worst").glob("*.png"):
            if _WORST.fullmatch(earlier.name):
                earlier.unlink()
        write_image(folder / "worst" / "legend.png", legend(self.data.classes))
        for place, (negative, index, prediction) in enumerate(sorted(self._worst, reverse=True), 1):
            name = self.data.name(index).replace("/", "_")
            panels(self._panels(index, prediction), folder / "worst" / f"{place:02d}_{name}_{-negative:.0f}.png")
        with replacing(folder / "report.json") as temporary:
            temporary.write_text(json.dumps(dict(figures, by_picture=self.pictures), indent=2) + "\n")

    def _panels(self, index: int, prediction: np.ndarray) -> List[np.ndarray]:
        """Picture, labels, prediction, and where they differ."""
        image, labels = self.data[index]
        errors = np.where((prediction == labels)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
        errors[labels == IGNORED] = UNKNOWN
        classes = self.data.classes
        return [image, colourise(labels, classes), colourise(prediction, classes), errors]
