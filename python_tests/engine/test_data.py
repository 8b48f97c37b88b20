"""Reading, finding and writing pictures; data folders; classes."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from swiftnet_ext.data import images
from swiftnet_ext.data.classes import CAMVID, CITYSCAPES, classes_for, colourise, legend, overlay
from swiftnet_ext.data.folder import SegmentationFolder
from swiftnet_ext.data.images import ImageError, find_images, read_image, read_labels, write_image
from swiftnet_ext.data.labelled import DataError


def picture(path, height=6, width=8, **options):
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(values).save(path, **options)
    return values


class TestReading:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
    def test_lossless_formats_come_back(self, tmp_path, suffix):
        values = picture(tmp_path / f"a.{suffix}")
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), values)

    def test_every_mode_becomes_rgb(self, tmp_path):
        for mode in ("L", "P", "RGBA", "1", "CMYK"):
            Image.new(mode, (8, 6)).save(tmp_path / "a.tif")
            assert read_image(tmp_path / "a.tif").shape == (6, 8, 3)

    def test_orientation_is_applied(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90°
        picture(tmp_path / "a.jpg", exif=exif)
        assert read_image(tmp_path / "a.jpg").shape == (8, 6, 3)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
    @pytest.mark.parametrize("orientation", range(10))
    def test_every_orientation_is_pillows(self, tmp_path, suffix, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(tmp_path / f"a.{suffix}", exif=exif)
        with Image.open(tmp_path / f"a.{suffix}") as plain:
            expected = np.array(ImageOps.exif_transpose(plain))
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), expected)

    def test_odd_exif_does_not_matter(self, tmp_path):
        """A width of -1, which no writer of EXIF takes."""
        entries = struct.pack("<HHIi", 0x0100, 9, 1, -1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
        picture(tmp_path / "a.jpg", exif=exif)
        with pytest.raises(struct.error), Image.open(tmp_path / "a.jpg") as plain:
            ImageOps.exif_transpose(plain)
        assert read_image(tmp_path / "a.jpg").shape == (8, 6, 3)

    @pytest.mark.parametrize("step", ["Image.open", "ImageFile.ImageFile.load", "PngImagePlugin.PngImageFile.getexif"])
    def test_whatever_a_decoder_raises_names_the_picture(self, tmp_path, monkeypatch, step):
        def odd(*arguments, **options):
            raise struct.error("odd")

        picture(tmp_path / "a.png")
        monkeypatch.setattr(f"PIL.{step}", odd)
        with pytest.raises(ImageError, match=r"a.png: .* \(odd\)"):
            read_image(tmp_path / "a.png")

    def test_what_is_no_picture_is_named(self, tmp_path):
        picture(tmp_path / "whole.png", 64, 64)
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("hello")
        (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
        Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
        (tmp_path / "header.ppm").write_bytes(b"P6 8x 6 255 " + bytes(144))
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "deep.tif")
        sentences = {
            "none.png": "no such file",
            "empty.png": "is empty",
            "text.png": "not a picture in PNG",
            "cut.png": "damaged or cut short",
            "a.gif": "not a picture in PNG",
            "header.ppm": "not a picture in PNG",
            "deep.tif": "more than 8 bits a channel",
            "": "is a folder",
        }
        for name, sentence in sentences.items():
            with pytest.raises(ImageError, match=sentence) as error:
                read_image(tmp_path / name)
            assert str(tmp_path / name) in str(error.value)

    def test_a_bomb_is_refused_by_its_header(self, tmp_path, monkeypatch):
        picture(tmp_path / "a.png", 20, 20)
        monkeypatch.setattr(images, "MAX_PIXELS", 399)
        with pytest.raises(ImageError, match="20×20 pixels, at most 399"):
            read_image(tmp_path / "a.png")

    def test_a_real_bomb_takes_no_memory(self, tmp_path):
        """3.6 gigapixels in 10 MB: refused by its header, in a process whose memory is counted."""
        side, bomb = 60000, tmp_path / "bomb.png"
        rows = zlib.compressobj(9)
        pixels = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(side)) + rows.flush()
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        with open(bomb, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            for kind, content in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
                file.write(struct.pack(">I", len(content)) + kind + content)
                file.write(struct.pack(">I", zlib.crc32(kind + content)))
        code = (
            "import resource, sys; from swiftnet_ext.data.images import ImageError, read_image\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak()\n"
            "try: read_image(sys.argv[1])\n"
            "except ImageError as error: print(peak() - before, error)"
        )
        output = subprocess.check_output([sys.executable, "-c", code, str(bomb)], text=True)
        kilobytes, message = output.split(" ", 1)
        assert str(bomb) in message
        assert int(kilobytes) < 50_000

    def test_labels_are_numbers_not_colours(self, tmp_path):
        values = np.arange(12, dtype=np.uint8).reshape(3, 4)
        write_image(tmp_path / "l.png", values)
        assert np.array_equal(read_labels(tmp_path / "l.png"), values)
        picture(tmp_path / "c.png")
        with pytest.raises(ImageError, match="one 8-bit channel"):
            read_labels(tmp_path / "c.png")


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(tmp_path / "a.png", np.ones((2, 2), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_finding_files_folders_and_globs(tmp_path):
    for name in ("f10.png", "f2.png", "f1.JPG", "f².png", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in find_images([str(tmp_path)])] == ["f1.JPG", "f2.png", "f10.png", "f².png"]
    twice = [str(tmp_path / "f[0-9]*.png"), str(tmp_path / "f2.png")]
    assert [p.name for p in find_images(twice)] == ["f2.png", "f10.png"]
    assert find_images([str(tmp_path / "missing.png")]) == [tmp_path / "missing.png"]  # reported when it is read
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "*.bmp", tmp_path / "empty"):
        with pytest.raises(ImageError, match="no picture found"):
            find_images([str(nothing)])


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path):
        for folder in ("val", "valannot"):
            (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(3):
            picture(tmp_path / "data" / "val" / f"{i}.jpg")
            labels = np.full((6, 8), i, np.uint8)
            labels[0, :2] = 11, 255
            write_image(tmp_path / "data" / "valannot" / f"{i}.png", labels)
        return tmp_path / "data"

    def test_pairs(self, root):
        folder = SegmentationFolder(str(root), "val", 11)
        assert len(folder) == 3
        image, labels = folder[2]
        assert image.shape == (6, 8, 3) and labels[0, :2].tolist() == [255, 255] and (labels[1:] == 2).all()

    def test_what_is_wrong_is_named(self, root):
        with pytest.raises(DataError, match="test: no such folder"):
            SegmentationFolder(str(root), "test", 11)
        with pytest.raises(DataError, match="label 11, expected 0 to 1"):
            SegmentationFolder(str(root), "val", 1)[2]
        write_image(root / "valannot" / "0.png", np.zeros((5, 8), np.uint8))
        with pytest.raises(DataError, match=r"0.png: is \(5, 8\), its picture \(6, 8\)"):
            SegmentationFolder(str(root), "val", 11)[0]
        (root / "valannot" / "1.png").unlink()
        with pytest.raises(DataError, match="1.png: the label map of 1.jpg is missing"):
            SegmentationFolder(str(root), "val", 11)

    def test_paths_that_leave_the_folder_are_refused(self, root):
        with pytest.raises(DataError, match="leaves the data set's folder"):
            SegmentationFolder(str(root), "../elsewhere", 11)
        picture(root.parent / "secret.jpg")
        (root / "val" / "0.jpg").unlink()
        (root / "val" / "0.jpg").symlink_to(root.parent / "secret.jpg")
        with pytest.raises(DataError, match="leaves the data set's folder"):
            SegmentationFolder(str(root), "val", 11)


def test_classes_and_their_pictures():
    assert classes_for(11) is CAMVID and classes_for(19) is CITYSCAPES
    assert len({c.colour for c in classes_for(40)}) == 40
    labels = np.array([[0, 3], [10, 255]], np.uint8)
    colours = colourise(labels, CAMVID)
    assert colours[0, 1].tolist() == [128, 64, 128] and colours[1, 1].tolist() == [0, 0, 0]
    image = np.full((2, 2, 3), 200, np.uint8)
    assert np.array_equal(overlay(image, labels, CAMVID, opacity=0), image)
    assert np.array_equal(overlay(image, labels, CAMVID, opacity=1), colours)
    assert legend(CAMVID).ndim == 3
