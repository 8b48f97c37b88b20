"""Label maps and overlays of pictures."""

import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import torch

from ..data.classes import classes_for, legend, overlay
from ..data.images import ImageError, read_image, write_image
from .shards import Finished, Worker, version_of

ALONE = Worker(rank=0, world=1, local_rank=0, restarted=False)
WARM_UP_CALLS = 3  # a network's first calls make plans and buffers: they are not timed


class Outcome(NamedTuple):
    """One picture's result: `error` is None, or says why it was left out; `seconds` from uint8 image to labels."""

    source: Path
    seconds: float
    error: Optional[str]


def output_stems(sources: Sequence[Path]) -> List[str]:
    """A name for each picture's results: its stem; where that is not unique its folders too, then its suffix, then all
    are numbered."""
    if not sources:
        return []
    absolute = [p.absolute() for p in sources]
    root = os.path.commonpath([p.parent for p in absolute])
    stems = [p.stem for p in absolute]
    with_folders = ["_".join(p.relative_to(root).with_suffix("").parts) for p in absolute]
    with_suffixes = [f"{s}_{p.suffix[1:]}" for s, p in zip(with_folders, absolute)]
    for longer in (with_folders, with_suffixes):
        counts = Counter(stems)
        stems = [new if counts[old] > 1 else old for old, new in zip(stems, longer)]
    if len(set(stems)) < len(stems):
        stems = [f"{i:06d}_{stem}" for i, stem in enumerate(stems)]
    return stems


def predict(
    model: Any,
    sources: Sequence[Path],
    out: Path,
    worker: Worker = ALONE,
    finished: Optional[Finished] = None,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Writes `<stem>_labels.png` (class numbers), `<stem>_overlay.png` and one `legend.png` for pictures, one by one.

    A picture that can't be read or doesn't fit the GPU, or results that can't be written, are an outcome with an
    error; the rest is still done. Pictures of equal stems get their folders' names in front. Of several workers each does
    its share. What is `finished` is left as it is where `resume`, and no outcome; what becomes finished is added to it.
    """
    out.mkdir(parents=True, exist_ok=True)
    classes = classes_for(model.num_classes, getattr(model, "classes", None))
    if worker.rank == 0:
        write_image(out / "legend.png", legend(classes))
    warm = False
    for source, stem in list(zip(sources, output_stems(sources)))[worker.rank :: worker.world]:
        results = [out / f"{stem}_labels.png", out / f"{stem}_overlay.png"]
        try:
            version = version_of(source) if finished is not None else ""  # before it is read
            if resume and finished is not None and finished.holds(version, results):
                continue
            image = read_image(source)
            for _ in range(0 if warm else WARM_UP_CALLS):
                model.segment(image)
            warm = True
            start = time.perf_counter()
            labels = model.segment(image)
            seconds = time.perf_counter() - start
            write_image(results[0], labels)
            write_image(results[1], overlay(image, labels, classes))
            if finished is not None:
                finished.add(version)
        except (ImageError, OSError) as error:
            yield Outcome(source, 0.0, str(error))
        except torch.cuda.OutOfMemoryError:
            height, width = image.shape[:2]
            reason = (
                f"{source}: {width}×{height} pixels need more GPU memory than is free; scale it down or use the CPU"
            )
            yield Outcome(source, 0.0, reason)
        else:
            yield Outcome(source, seconds, None)


def median_seconds(outcomes: Iterable[Outcome]) -> Optional[float]:
    """The median over the pictures that were done; None where none was."""
    seconds = [o.seconds for o in outcomes if o.error is None]
    return statistics.median(seconds) if seconds else None
