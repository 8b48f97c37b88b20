"""mIoU by disparity, against a count that holds everything in memory."""

import json
import math
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from swiftnet_ext.data.folder import SegmentationFolder
from swiftnet_ext.data.images import ImageError, read_disparity, write_image
from swiftnet_ext.data.labelled import DataError
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine.disparity import DisparityBins, check_edges
from swiftnet_ext.engine.evaluate import evaluate

CLASSES = 5


class Reader:
    """A network that reads its labels off the red channel."""

    num_classes = CLASSES

    def segment(self, image):
        return image[..., 0]


def write_pair(root, stem, predicted, labels, raw):
    for folder in ("val", "valannot", "valdisparity"):
        (root / folder).mkdir(exist_ok=True, parents=True)
    write_image(root / "val" / f"{stem}.png", np.repeat(predicted[..., None], 3, 2).astype(np.uint8))
    write_image(root / "valannot" / f"{stem}.png", labels.astype(np.uint8))
    write_image(root / "valdisparity" / f"{stem}.png", raw.astype(np.uint16))


def random_pair(seed, height=30, width=41):
    """Predictions, labels (also of no class), and values: measured or not, some from few values, some class far only."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, CLASSES, 255], (height, width))
    predicted = np.where(rng.random((height, width)) < 0.6, labels % CLASSES, rng.integers(0, 4, (height, width)))
    raw = rng.integers(1, 90 * 256, (height, width)) // 700 * 700 + 1
    labels[raw < 3000] = np.where(labels[raw < 3000] == 3, 4, labels[raw < 3000])
    raw[rng.random((height, width)) < 0.2] = 0
    return predicted, labels, raw


@pytest.fixture
def root(tmp_path):
    for seed in range(3):
        write_pair(tmp_path, str(seed), *random_pair(seed))
    return tmp_path


def in_memory(root):
    """(predictions, labels, disparity in pixels) of all labelled and measured pixels, by value; and the labelled."""
    predicted, labels, raw = [], [], []
    for path in sorted((root / "val").iterdir()):
        predicted.append(np.asarray(Image.open(path))[..., 0].ravel())
        labels.append(np.asarray(Image.open(root / "valannot" / path.name)).ravel())
        raw.append(np.asarray(Image.open(root / "valdisparity" / path.name)).astype(int).ravel())
    p, t, r = map(np.concatenate, (predicted, labels, raw))
    known = t < CLASSES
    return p[known & (r > 0)], t[known & (r > 0)], (r[known & (r > 0)] - 1) / 256, known.sum()


def naive_iou(predicted, labels):
    found = {}
    for c in range(CLASSES):
        union = ((predicted == c) | (labels == c)).sum()
        if union:
            found[c] = ((predicted == c) & (labels == c)).sum() / union
    return found


EDGES = (0, 16, 32.5, 60, 200, 256, math.inf)


def test_figures_are_those_of_a_count_in_memory(root):
    data = SegmentationFolder(str(root), "val", CLASSES, disparity=True)
    bins = DisparityBins(data, EDGES)
    overall = evaluate(Reader(), data, also=[bins.update])
    assert np.array_equal(overall.counts, evaluate(Reader(), data).counts)

    predicted, labels, disparity, labelled = in_memory(root)
    assert bins.measured == pytest.approx(len(disparity) / labelled)
    ordered, k = np.sort(disparity), math.ceil(0.05 * len(disparity))
    wanted = [disparity >= 0, disparity >= ordered[-k], disparity <= ordered[k - 1]]
    wanted += [(disparity >= a) & (disparity < b) for a, b in zip(EDGES, EDGES[1:])]
    assert len(bins.bins) == len(wanted)
    for group, inside in zip(bins.bins, wanted):
        naive = naive_iou(predicted[inside], labels[inside])
        assert group.pixels == inside.sum() == group.matrix.counts.sum(), group.name
        assert group.share == pytest.approx(inside.mean())
        assert group.matrix.absent() == [c for c in range(CLASSES) if c not in naive]
        if naive:
            assert group.matrix.mean_iou() == pytest.approx(np.mean(list(naive.values())))
    names = [group.name for group in bins.bins]
    assert names[0] == "all measured" and names[3] == "0 to 16 px" and names[-1] == "256 px and more"
    assert names[1] == f"nearest 5 %, from {ordered[-k]:.2f} px" and names[2].endswith(f"to {ordered[k - 1]:.2f} px")
    # the data has ties at both thresholds, unequal bins, empty bins and an absent class: else this proves little
    assert bins.bins[1].share > 0.05 and bins.bins[2].share > 0.05
    assert bins.bins[-1].pixels == 0 and 4 in bins.bins[1].matrix.absent() and 4 not in bins.bins[2].matrix.absent()


@pytest.mark.parametrize("near, far", [(50, 50), (49, 50), (50, 51)])
def test_five_percent_is_exact_where_values_allow_it(tmp_path, near, far):
    """1000 pixels: 50 of a value are 5 %, and no more are taken; 49 are too few."""
    raw = np.repeat([1, 2, 300, 400, 65535], [far, 50, 850 - near - far + 50, 50, near]).reshape(20, 50)
    write_pair(tmp_path, "a", raw % 3, raw % 3, raw)
    bins = DisparityBins(SegmentationFolder(str(tmp_path), "val", CLASSES, disparity=True)).bins
    assert bins[1].pixels == (near if near >= 50 else near + 50) and bins[2].pixels == far
    assert (bins[2].first, bins[2].last) == (1, 1) and bins[1].last == 65535


def test_one_value_everywhere(tmp_path):
    labels = np.zeros((4, 5), int)
    write_pair(tmp_path, "a", labels, labels, labels + 257)
    bins = DisparityBins(SegmentationFolder(str(tmp_path), "val", CLASSES, disparity=True), (0, 1, 2)).bins
    assert [group.pixels for group in bins] == [20, 20, 20, 0, 20]  # 257 is 1 pixel, which begins a bin


def test_records_say_what_is_absent(root):
    data = SegmentationFolder(str(root), "val", CLASSES, disparity=True)
    bins = DisparityBins(data, (250, 256))
    evaluate(Reader(), data, also=[bins.update])
    everything, near, _, empty = bins.records("abcde")
    assert everything["absent"] == [] and (everything["from_px"], everything["to_px"]) == (0, 65534 / 256)
    assert near["absent"] == ["e"] and near["IoU"]["e"] is None
    assert near["mIoU"] == pytest.approx(np.mean([near["IoU"][c] for c in "abcd"]))
    assert empty["mIoU"] is None and empty["pixels"] == 0 and empty["absent"] == list("abcde")
    json.dumps(bins.records("abcde"), allow_nan=False)


def test_memory_does_not_grow_with_the_data_set(tmp_path):
    def peak(count):
        root = tmp_path / str(count)
        for seed in range(count):
            write_pair(root, str(seed), *random_pair(seed, 120, 160))
        data = SegmentationFolder(str(root), "val", CLASSES, disparity=True)
        tracemalloc.start()
        try:
            bins = DisparityBins(data, (0, 16, 64))
            evaluate(Reader(), data, also=[bins.update])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what modules keep once
    # 60 more pictures are 1.1 MB of labels and 2.3 MB of disparities
    assert peak(64) < peak(4) + 100_000


class TestErrors:
    def folder(self, root):
        return SegmentationFolder(str(root), "val", CLASSES, disparity=True)

    def test_the_folder_is_named(self, root):
        for path in (root / "valdisparity").iterdir():
            path.rename(root / path.name)
        with pytest.raises(DataError, match=r"0.png: the disparity map of 0.png is missing; copy it there"):
            self.folder(root)
        (root / "valdisparity").rmdir()
        with pytest.raises(DataError, match="valdisparity: no such folder; .*, and valdisparity/ with disparity maps"):
            self.folder(root)
        assert len(SegmentationFolder(str(root), "val", CLASSES)) == 3  # without disparities it is a data set still

    def test_a_path_out_of_the_folder_is_refused(self, root, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "1.png"
        (root / "valdisparity" / "1.png").rename(elsewhere)
        os.symlink(elsewhere, root / "valdisparity" / "1.png")
        with pytest.raises(DataError, match=r"1.png: leaves the data set's folder .*; copy the file there"):
            self.folder(root)

    def test_another_size(self, root):
        write_image(root / "valdisparity" / "2.png", np.ones((30, 40), np.uint16))
        with pytest.raises(
            DataError, match=r"2.png: is \(30, 40\), its labels \(30, 41\) \(rows, columns\); store both"
        ):
            DisparityBins(self.folder(root))

    @pytest.mark.parametrize("kind", ["8 bits", "colours", "tiff"])
    def test_another_format(self, root, kind):
        path, pixels = root / "valdisparity" / "2.png", np.ones((30, 41), np.uint16)
        if kind == "tiff":
            Image.fromarray(pixels).save(path, format="TIFF")
        else:
            write_image(path, np.ones((30, 41) if kind == "8 bits" else (30, 41, 3), np.uint8))
        with pytest.raises(
            ImageError, match="2.png: a disparity map is a PNG of one 16-bit channel.*; store 256 times"
        ):
            DisparityBins(self.folder(root))

    def test_a_folder_opened_without(self, root):
        with pytest.raises(DataError, match="pass disparity=True"):
            DisparityBins(SegmentationFolder(str(root), "val", CLASSES))

    def test_nothing_measured(self, tmp_path):
        labels = np.zeros((4, 5), int)
        write_pair(tmp_path, "a", labels, labels, labels)
        with pytest.raises(
            DataError, match="no labelled pixel of a and 0 more has a disparity: expected values from 1"
        ):
            DisparityBins(self.folder(tmp_path))

    @pytest.mark.parametrize("edges", [(3,), (3, 3), (5, 4), (-1, 4), (math.nan, 4), (0, math.nan)])
    def test_edges_increase(self, edges):
        with pytest.raises(ValueError, match="disparity edges: expected at least two increasing numbers from 0"):
            check_edges(edges)


def test_values_come_back_whole(tmp_path):
    raw = np.array([[0, 1, 255, 256], [257, 32768, 65534, 65535]], np.uint16)
    write_image(tmp_path / "a.png", raw)
    found = read_disparity(tmp_path / "a.png")
    assert found.dtype == np.uint16 and np.array_equal(found, raw)


class TestCommand:
    @pytest.fixture
    def scenes(self, tmp_path):
        for seed in range(2):
            scene = render_scene(seed, 96, 128)
            raw = np.round(256 * scene.disparity) + 1
            raw[:, :9] = 0  # stereo sees nothing at the left edge
            write_pair(tmp_path, str(seed), scene.labels, scene.labels, raw)
            write_image(tmp_path / "val" / f"{seed}.png", scene.image)
        return tmp_path

    def test_prints_a_table_and_ends_with_miou(self, scenes, swiftnet, monkeypatch, tmp_path):
        monkeypatch.setenv("COLUMNS", "40")
        file = tmp_path / "figures.json"
        given = ("--data", scenes, "--split", "val", "--disparity", "--disparity-bins", "0,4,inf", "--json", file)
        status, said, errors = swiftnet("evaluate", *given)
        assert status == 0, errors
        figures, lines = json.loads(file.read_text()), said.splitlines()
        assert lines[-1] == f"mIoU {figures['mIoU']:.2f}"
        assert lines[-2] == f"{figures['disparity']['measured']:.2f} % of the labelled pixels have a disparity; " + (
            "the shares are of these"
        )
        records = figures["disparity"]["bins"]
        assert len(records) == 5 and records[3]["pixels"] + records[4]["pixels"] == records[0]["pixels"]
        for record, line in zip(records, lines[-7:-2]):  # whole, though COLUMNS is 40
            absent = ", ".join(record["absent"]) or "none"
            assert line.split() == f"{record['name']} {record['share']:.2f} {record['mIoU']:.2f} {absent}".split()
        assert any(record["absent"] for record in records)  # else the column was not seen filled

    def test_edges_are_checked_before_anything_is_read(self, swiftnet):
        status, _, errors = swiftnet("evaluate", "--data", "nowhere", "--split", "val", "--disparity-bins", "16,x")
        assert status == 2 and errors == (
            "swiftnet: --disparity-bins 16,x: expected increasing numbers from 0, at least two, e.g. 0,16,32,inf\n"
        )
