"""Files that appear whole or not at all."""

import os
import re
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes `path`'s place when the block ends without an error.

    It is on the disk before it gets the name: what has the name after a crash is whole. Of a link, what it leads to is
    replaced. What is there and no file, as /dev/stdout, is itself what to write to.

    Raises:
        OSError: the block's; where it names no file, of a full disk, `path` is put in.
    """
    if path.exists() and not path.is_file():
        with _naming(path, path):
            yield path
        return
    path = Path(os.path.realpath(str(path)))
    temporary = path.with_name(".{}.{}.tmp".format(path.name, uuid.uuid4().hex))
    try:
        with _naming(path, temporary):
            yield temporary
            _to_disk(temporary)
            os.replace(str(temporary), str(path))
            _to_disk(path.parent)
    finally:
        if temporary.exists():
            temporary.unlink()


@contextmanager
def _naming(path: Path, written: Path) -> Iterator[None]:
    """Errors of a block that writes to `written` name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError("{}: {}".format(path, error)) from error
        if error.filename in (None, str(written)):
            error.filename = str(path)
        raise


def sweep(folder: Path) -> None:
    """Removes what killed processes left of `replacing` in a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        if re.match(r"\..+\.[0-9a-f]{32}\.tmp$", path.name):
            path.unlink()


def _to_disk(path: Path) -> None:
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
