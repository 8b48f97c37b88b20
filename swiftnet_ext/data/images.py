"""Pictures from and to files, with errors that name the file and the cure."""

import glob
import os
import re
import warnings
from pathlib import Path
from typing import Iterable, List

import numpy as np
from PIL import Image

from ..files import replacing

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".webp")
MAX_PIXELS = 100_000_000  # a 10-gigapixel "bomb" is refused by its header, before it is decoded
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A picture that can't be read; the message names the file, what is wrong and the cure."""


def _open(path: Path) -> Image.Image:
    if path.is_dir():
        raise ImageError(f"{path}: is a folder; name the pictures in it")
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty; copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            picture = Image.open(path, formats=FORMATS)
    except Exception as error:  # a damaged file may raise anything
        raise ImageError(f"{path}: not a picture in {', '.join(FORMATS)} ({error})")
    if picture.width * picture.height > MAX_PIXELS:
        raise ImageError(f"{path}: {picture.width}×{picture.height} pixels, at most {MAX_PIXELS:,}; scale it down")
    return picture


def _decoded(path: Path, picture: Image.Image, mode: str) -> np.ndarray:
    try:
        return np.array(picture.convert(mode) if picture.mode != mode else picture)
    except Exception as error:  # a damaged file may raise anything
        raise ImageError(f"{path}: damaged or cut short ({error}); copy it again")


def _upright(path: Path, picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says, which ImageOps.exif_transpose would write anew, and can't where it holds odd values."""
    try:
        picture.load()  # turns a TIFF by itself
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # a damaged file may raise anything
        raise ImageError(f"{path}: damaged or cut short ({error}); copy it again")
    return picture if turn is None else picture.transpose(turn)


def read_image(path: "os.PathLike[str] | str") -> np.ndarray:
    """A picture as uint8 RGB [H, W, 3], turned as its EXIF orientation says.

    Raises:
        ImageError: missing, empty, damaged, of another format, of more than MAX_PIXELS pixels, or of one channel of
            more than 8 bits.
    """
    path = Path(path)
    with _open(path) as picture:
        if picture.mode[0] in "IF":  # Pillow would clip its values at 255
            raise ImageError(f"{path}: has mode {picture.mode}, more than 8 bits a channel; store it with 8")
        return _decoded(path, _upright(path, picture), "RGB")


def read_labels(path: "os.PathLike[str] | str") -> np.ndarray:
    """A label map as uint8 [H, W]: the pixel values of a picture of one 8-bit channel, or its palette indices.

    Raises:
        ImageError: as read_image, or a picture of colours.
    """
    path = Path(path)
    with _open(path) as picture:
        if picture.mode not in ("L", "P"):
            raise ImageError(
                f"{path}: a label map has one 8-bit channel, this has mode {picture.mode}; store class numbers"
            )
        return _decoded(path, picture, picture.mode)


def read_disparity(path: "os.PathLike[str] | str") -> np.ndarray:
    """A disparity map as uint16 [H, W], in its file's values: 0 where nothing was measured, 256 · pixels + 1 elsewhere.

    Raises:
        ImageError: as read_image, or not a PNG of one 16-bit channel. Source: Cityscapes' disparity maps.
    """
    path = Path(path)
    with _open(path) as picture:
        if picture.format != "PNG" or picture.mode not in ("I;16", "I;16B", "I"):  # older Pillow: I
            raise ImageError(
                f"{path}: a disparity map is a PNG of one 16-bit channel, this is {picture.format} of mode "
                f"{picture.mode}; store 256 times the disparity in pixels plus 1, and 0 where there is none"
            )
        return _decoded(path, picture, picture.mode).astype(np.uint16)


def write_image(path: "os.PathLike[str] | str", pixels: np.ndarray, compression: int = 6) -> None:
    """Writes uint8 [H, W] or [H, W, 3] as PNG; the file appears whole or not at all.

    `compression` is zlib's, 1 to 9: of photographs 1 takes a quarter of 6's time and a tenth more bytes.
    """
    with replacing(Path(path)) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=compression)


def natural_order(path: "os.PathLike[str] | str") -> List[object]:
    """A key that sorts frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def find_images(arguments: Iterable[str]) -> List[Path]:
    """Files as named, the pictures directly in folders, and what globs match; each once, every argument in natural order.

    Raises:
        ImageError: an argument that matches nothing.
    """
    found: List[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
        elif path.exists() or not glob.has_magic(argument):
            matches = [path]  # a missing file is reported when it is read, and the others are still done
        else:
            matches = [Path(p) for p in glob.glob(argument) if os.path.isfile(p)]
        if not matches:
            raise ImageError(f"{argument}: no picture found; expected a file, a folder of pictures, or a glob")
        found += sorted(matches, key=natural_order)
    return list(dict.fromkeys(found))
