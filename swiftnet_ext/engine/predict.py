"""Label maps and overlays of pictures."""

import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch

from ..data.classes import classes_for, legend, overlay
from ..data.images import ImageError, read_image, write_image
from .ahead import READ_AHEAD, ahead, has_spare_core
from .shards import Finished, Worker, version_of

ALONE = Worker(rank=0, world=1, local_rank=0, restarted=False)
LEGEND = "legend.png"
WARM_UP_CALLS = 3  # a network's first calls make plans and buffers: they are not timed


class Outcome(NamedTuple):
    """One picture's result: `error` is None, or says why it was left out; `seconds` from uint8 image to labels."""

    source: Path
    seconds: float
    error: Optional[str]


class _Picture(NamedTuple):
    """A picture on its way from file to files; once `error` is set, nothing more is done with it."""

    source: Path
    results: List[Path]
    version: str = ""
    image: Any = None
    labels: Any = None
    seconds: float = 0.0
    error: Optional[str] = None


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


def result_files(sources: Sequence[Path], out: Path) -> List[List[Path]]:
    """Each picture's labels and overlay in the folder `out`.

    Raises:
        ValueError: one of them, or the legend, is itself a picture to segment, which would be overwritten.
    """
    results = [[out / f"{stem}_labels.png", out / f"{stem}_overlay.png"] for stem in output_stems(sources)]
    identities = {_identity(source) for source in sources} - {None}
    for result in [out / LEGEND, *(path for paths in results for path in paths)]:
        if _identity(result) in identities:
            raise ValueError(
                f"{result}: is one of the pictures to segment and would be overwritten; name another folder by --out"
            )
    return results


def _identity(path: Path) -> Optional[Tuple[int, int]]:
    """The same for every name of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def predict(
    model: Any,
    sources: Sequence[Path],
    out: Path,
    worker: Worker = ALONE,
    finished: Optional[Finished] = None,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Writes `<stem>_labels.png` (class numbers), `<stem>_overlay.png` and one `legend.png` for pictures, one by one.

    The next picture is read while one is segmented, and where a core is to spare the last one's results are written.
    A picture that can't be read or doesn't fit the memory, or results that can't be written, are an outcome with an
    error; the rest is still done. Pictures of equal stems get their folders' names in front. Of several workers each does
    its share. What is `finished` is left as it is where `resume`, and no outcome; what becomes finished is added to it.

    Raises:
        ValueError: of result_files; nothing is written then.
    """
    share = list(zip(sources, result_files(sources, out)))[worker.rank :: worker.world]
    out.mkdir(parents=True, exist_ok=True)
    classes = classes_for(model.num_classes, getattr(model, "classes", None))
    if worker.rank == 0:
        write_image(out / LEGEND, legend(classes))

    def read(task: Tuple[Path, List[Path]]) -> Optional[_Picture]:
        source, results = task
        try:
            version = version_of(source) if finished is not None else ""  # before it is read
            if resume and finished is not None and finished.holds(version, results):
                return None
            return _Picture(source, results, version, read_image(source))
        except (ImageError, OSError) as error:
            return _Picture(source, results, error=str(error))

    def write(picture: _Picture) -> Outcome:
        if picture.error is None:
            try:
                write_image(picture.results[0], picture.labels)
                write_image(picture.results[1], overlay(picture.image, picture.labels, classes), compression=1)
                if finished is not None:
                    finished.add(picture.version, picture.results)
            except OSError as error:
                return Outcome(picture.source, 0.0, str(error))
        return Outcome(picture.source, picture.seconds, picture.error)

    pictures = (picture for picture in ahead(read, share, READ_AHEAD) if picture is not None)
    yield from ahead(write, _segmented(model, pictures), 1 if has_spare_core(model) else 0)


def _segmented(model: Any, pictures: Iterable[_Picture]) -> Iterator[_Picture]:
    """The pictures with their labels, or with why there are none."""
    warm = False
    for picture in pictures:
        if picture.error is not None:
            yield picture
            continue
        try:
            for _ in range(0 if warm else WARM_UP_CALLS):
                model.segment(picture.image)
            warm = True
            start = time.perf_counter()
            labels = model.segment(picture.image)
            seconds = time.perf_counter() - start
        except (torch.cuda.OutOfMemoryError, OSError) as error:  # the latter: of a CPU, from mmap
            (height, width), on_gpu = picture.image.shape[:2], not isinstance(error, OSError)
            memory, cure = ("GPU memory", " or use the CPU") if on_gpu else ("memory", "")
            reason = f"{width}×{height} pixels need more {memory} than is free; scale it down{cure}"
            yield _Picture(picture.source, picture.results, error=f"{picture.source}: {reason}")
        else:
            yield picture._replace(labels=labels, seconds=seconds)


def median_seconds(outcomes: Iterable[Outcome]) -> Optional[float]:
    """The median over the pictures that were done; None where none was."""
    seconds = [o.seconds for o in outcomes if o.error is None]
    return statistics.median(seconds) if seconds else None
