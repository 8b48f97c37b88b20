"""Data sets in their own layouts, on small trees."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swiftnet_ext.data import camvid
from swiftnet_ext.data.cityscapes import LABEL_IDS
from swiftnet_ext.data.classes import CAMVID, CITYSCAPES, classes_for
from swiftnet_ext.data.datasets import open_dataset
from swiftnet_ext.data.folder import SegmentationFolder
from swiftnet_ext.data.images import write_image
from swiftnet_ext.data.labelled import Cached, DataError, Selection, held_out
from swiftnet_ext.data.synthetic import render_scene

DATA = Path(os.environ.get("SWIFTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 8, 3), np.uint8)

# of SegNet's classes: what the authors' label_colors.txt calls them
CAMVID_COLOURS = """
64 128 64 Animal 9|192 0 128 Archway 1|0 128 192 Bicyclist 10|0 128 64 Bridge 1|128 0 0 Building 1|64 0 128 Car 8
64 0 192 CartLuggagePram 9|192 128 64 Child 9|192 192 128 Column_Pole 2|64 64 128 Fence 7|128 0 192 LaneMkgsDriv 3
192 0 64 LaneMkgsNonDriv 3|128 128 64 Misc_Text 6|192 0 192 MotorcycleScooter 10|128 64 64 OtherMoving 8
64 192 128 ParkingBlock 4|64 64 0 Pedestrian 9|128 64 128 Road 3|128 128 192 RoadShoulder 4|0 0 192 Sidewalk 4
192 128 128 SignSymbol 6|128 128 128 Sky 0|64 128 192 SUVPickupTruck 8|0 0 64 TrafficCone 2|0 64 64 TrafficLight 6
192 64 128 Train 8|128 128 0 Tree 5|192 128 192 Truck_Bus 8|64 0 64 Tunnel 1|192 192 0 VegetationMisc 5|0 0 0 Void 255
64 192 0 Wall 1
"""


def rows():
    for entry in CAMVID_COLOURS.replace("\n", "|").strip("|").split("|"):
        red, green, blue, name, label = entry.split()
        yield (int(red), int(green), int(blue)), name, int(label)


class TestCamVidOriginal:
    @pytest.fixture
    def root(self, tmp_path):
        for folder in (camvid.IMAGES, camvid.LABELS):
            (tmp_path / folder).mkdir()
        colours = np.array([colour for colour, _, _ in rows()], np.uint8).reshape(4, 8, 3)
        for stem in ("0001TP_006690", "0016E5_00390", "0016E5_00420"):
            write_image(tmp_path / camvid.IMAGES / f"{stem}.png", RNG.integers(0, 256, (4, 8, 3), np.uint8))
            write_image(tmp_path / camvid.LABELS / f"{stem}_L.png", colours)
        (tmp_path / "train.txt").write_text("0016E5_00390.png\n\n/somewhere/0001TP_006690.png 3\n")
        return tmp_path

    def test_every_colour(self, root):
        assert len(list(rows())) == 32 and {name for group in camvid.GROUPS.values() for name in group} == {
            name for _, name, _ in rows()
        } - {"Void"}
        for kind in ("camvid", "auto"):
            data = open_dataset(kind, str(root), "train")
            image, labels = data[0]
            assert image.shape == (4, 8, 3) and labels.dtype == np.uint8
            assert labels.ravel().tolist() == [label for _, _, label in rows()]
        assert [data.name(i) for i in range(len(data))] == ["0016E5_00390", "0001TP_006690"]
        assert data.sequence(0) == "0016E5" and data.classes == CAMVID

    def test_an_unknown_colour(self, root):
        path = root / camvid.LABELS / "0016E5_00390_L.png"
        write_image(path, np.full((4, 8, 3), 7, np.uint8))
        with pytest.raises(DataError, match=rf"{path}: colour \(7, 7, 7\) is none of CamVid's 32"):
            open_dataset("camvid", str(root), "train")[0]

    def test_lists(self, root):
        with pytest.raises(DataError, match="val.txt: no such file; write the split's pictures there, a name a line"):
            open_dataset("camvid", str(root), "val")
        (root / "val.txt").write_text("\n")
        with pytest.raises(DataError, match="val.txt: names no pictures"):
            open_dataset("camvid", str(root), "val")
        (root / "val.txt").write_text("0099XX_000001\n")
        with pytest.raises(DataError, match="0099XX_000001.png: no such picture, but val.txt names it"):
            open_dataset("camvid", str(root), "val")
        (root / camvid.LABELS / "0016E5_00420_L.png").unlink()
        (root / "val.txt").write_text("0016E5_00420\n")
        with pytest.raises(DataError, match="0016E5_00420_L.png: the label map of 0016E5_00420.png is missing"):
            open_dataset("camvid", str(root), "val")

    def test_no_disparity(self, root):
        with pytest.raises(DataError, match="has no disparity maps"):
            open_dataset("camvid", str(root), "train", disparity=True)


class TestCityscapes:
    @pytest.fixture
    def root(self, tmp_path):
        ids = np.arange(35).reshape(5, 7).astype(np.uint8)
        for city, frame in (("ulm", "ulm_000002_000019"), ("aachen", "aachen_000010_000019")):
            for kind, suffix, pixels in (
                ("leftImg8bit", "leftImg8bit", RNG.integers(0, 256, (5, 7, 3), np.uint8)),
                ("gtFine", "gtFine_labelIds", ids),
            ):
                folder = tmp_path / kind / "val" / city
                folder.mkdir(parents=True)
                write_image(folder / f"{frame}_{suffix}.png", pixels)
            (tmp_path / "disparity" / "val" / city).mkdir(parents=True)
            raw = (np.arange(35).reshape(5, 7) * 1000).astype(np.uint16)
            Image.fromarray(raw).save(tmp_path / "disparity" / "val" / city / f"{frame}_disparity.png")
        return tmp_path

    def test_train_ids(self, root):
        names = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
                 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
                 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}  # fmt: skip
        data = open_dataset("auto", str(root), "val", disparity=True)
        assert [data.name(i) for i in range(2)] == ["aachen_000010_000019", "ulm_000002_000019"]
        assert data.sequence(1) == "ulm" and data.classes == CITYSCAPES
        labels = data[0][1].ravel()
        for label_id in range(35):
            expected = [c.name for c in CITYSCAPES].index(names[label_id]) if label_id in names else 255
            assert labels[label_id] == expected
        assert len(LABEL_IDS) == 19 and data.disparity(1, (5, 7))[1, 0] == 7000

    def test_what_is_missing_is_named(self, root):
        with pytest.raises(DataError, match=r"leftImg8bit/train: holds no CITY/\*_leftImg8bit.png; unpack"):
            open_dataset("cityscapes", str(root), "train")
        (root / "disparity" / "val" / "ulm" / "ulm_000002_000019_disparity.png").unlink()
        open_dataset("cityscapes", str(root), "val")
        with pytest.raises(DataError, match="ulm_000002_000019_disparity.png: the disparity map of .* is missing"):
            open_dataset("cityscapes", str(root), "val", disparity=True)
        with pytest.raises(DataError, match="leaves the data set's folder"):
            open_dataset("cityscapes", str(root), "../../elsewhere")

    def test_what_is_no_label_id_is_named(self, root):
        path = root / "gtFine" / "val" / "ulm" / "ulm_000002_000019_gtFine_labelIds.png"
        write_image(path, np.full((5, 7), 255, np.uint8))
        assert (open_dataset("cityscapes", str(root), "val").labels(1) == 255).all()
        write_image(path, np.full((5, 7), 128, np.uint8))
        with pytest.raises(
            DataError, match="labelIds.png: label id 128, expected 0 to 34 or 255; use gtFine's labelIds"
        ):
            open_dataset("cityscapes", str(root), "val").labels(1)


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path):
        for folder in ("val", "valannot", "masks"):
            (tmp_path / folder).mkdir()
        write_image(tmp_path / "val" / "a.png", PICTURE)
        write_image(tmp_path / "valannot" / "a.png", np.full((6, 8), 3, np.uint8))
        write_image(tmp_path / "masks" / "a.png", np.full((6, 8), 1, np.uint8))
        return tmp_path

    def test_folders_by_name(self, root):
        two = classes_for(2, ["road", "rest"])
        data = open_dataset("folder", str(root), "val:masks", classes=two)
        assert (data[0][1] == 1).all() and data.classes == two
        for split in ("val:", "a:b:c:d"):
            with pytest.raises(DataError, match="expected NAME, PICTURES:LABELS or"):
                open_dataset("folder", str(root), split)
        with pytest.raises(DataError, match="depths: no such folder; a data set has val/ with pictures, masks/|depths"):
            open_dataset("folder", str(root), "val:masks:depths", classes=two, disparity=True)

    def test_other_classes_than_expected(self, root):
        assert open_dataset("camvid", str(root), "val").classes == CAMVID
        with pytest.raises(DataError, match="the labels are Sky, .*; the network's classes are road, sidewalk"):
            open_dataset("camvid", str(root), "val", classes=CITYSCAPES)

    def test_kinds(self, root):
        with pytest.raises(DataError, match="data set of kind 'kitti': expected one of auto, folder, camvid"):
            open_dataset("kitti", str(root), "val")

    def test_the_command(self, root, swiftnet):
        status, _, errors = swiftnet("evaluate", "--data", root, "--split", "val", "--dataset", "cityscapes")
        assert status == 2 and "holds no CITY" in errors


class TestSynthetic:
    def test_scenes(self):
        data = open_dataset("synthetic", "", "val", count=3)
        scene = render_scene(2)
        image, labels = data[2]
        assert len(data) == 3 and np.array_equal(image, scene.image) and data.name(2) == "scene_2"
        assert np.array_equal(labels, np.where(scene.labels == 11, 255, scene.labels))
        raw = data.disparity(2, labels.shape)
        measured = scene.disparity > 0
        assert raw.dtype == np.uint16 and measured.any() and not measured.all() and not raw[~measured].any()
        assert np.abs((raw - 1.0) / 256 - scene.disparity)[measured].max() <= 1 / 256
        with pytest.raises(IndexError):
            data[3]

    def test_splits_have_no_scene_in_common(self):
        train, val = open_dataset("synthetic", "", "train"), open_dataset("synthetic", "", "val")
        assert not {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))}
        with pytest.raises(DataError, match="split 'test': rendered scenes have train and val"):
            open_dataset("synthetic", "", "test")
        with pytest.raises(DataError, match="count: at most 1000"):
            open_dataset("synthetic", "", "val", count=1001)


class Named:
    """Frames of recordings, by name."""

    classes = CAMVID
    num_classes = 11

    def __init__(self, *names):
        self.names, self.reads = names, 0

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        self.reads += 1
        return np.full((2, 2, 3), index, np.uint8), np.full((2, 2), index, np.uint8)

    def labels(self, index):
        return self[index][1]

    def disparity(self, index, shape):
        return np.full(shape, index, np.uint16)

    def name(self, index):
        return self.names[index]

    def sequence(self, index):
        return self.names[index][0]


class TestCombinations:
    def test_held_out(self):
        data = Named("a1", "b1", "a2", "a3", "a4", "c1", "b2", "a5")
        fit, held = held_out(data, 0.4)
        assert [data.names[i] for i in held] == ["a4", "b2", "a5"]  # the last two of a, one of b, none of one
        assert sorted(fit + held) == list(range(8))
        with pytest.raises(DataError, match="nothing to hold out: 2 pictures of as many sequences"):
            held_out(Named("a1", "b1"), 0.5)

    def test_selected_and_cached(self):
        a, b = Named("a1", "a2", "a3"), Named("b1", "b2")
        data = Cached(Selection([(a, [2, 0]), (b, range(2))]))
        assert [data.name(i) for i in range(len(data))] == ["a3", "a1", "b1", "b2"]
        assert [data.sequence(i) for i in range(4)] == ["a", "a", "b", "b"]
        for _ in range(3):
            assert [int(data[i][0][0, 0, 0]) for i in range(4)] == [2, 0, 0, 1]
            assert [int(data.labels(i)[0, 0]) for i in range(4)] == [2, 0, 0, 1]
            assert [int(data.disparity(i, (1, 1))[0, 0]) for i in range(4)] == [2, 0, 0, 1]
        assert (a.reads, b.reads) == (2, 2)

    def test_selected_classes_differ(self):
        other = Named("a")
        other.classes = CITYSCAPES
        with pytest.raises(DataError, match="different classes can't be joined: Sky, .*; road, "):
            Selection([(Named("a"), [0]), (other, [0])])


def test_cityscapes_is_held_out_by_city(tmp_path):
    for city, sequences in (("aachen", 10), ("hamburg", 4)):
        for i in range(sequences):  # as there: one labelled frame of a recording
            name = f"{city}_{i:06d}_000019"
            for folder, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
                path = tmp_path / folder / "train" / city / f"{name}_{suffix}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, np.zeros((2, 2, 3) if folder == "leftImg8bit" else (2, 2), np.uint8))
    data = open_dataset("cityscapes", str(tmp_path), "train")
    fit, held = held_out(data, 0.25)
    assert [data.name(i)[:-7] for i in held] == ["aachen_000008", "aachen_000009", "hamburg_000003"]
    assert len(fit) == 11


def test_camvid_is_held_out_by_recording():
    if not (DATA / "camvid").is_dir():
        pytest.skip(f"no CamVid in {DATA}")
    data = open_dataset("auto", str(DATA / "camvid"), "train")
    assert isinstance(data, SegmentationFolder) and len(data) == 367
    assert {data.sequence(i) for i in range(len(data))} == {"0001TP", "0006R0", "0016E5"}
    fit, held = held_out(data, 0.15)
    for sequence in ("0001TP", "0006R0", "0016E5"):
        frames = [i for i in range(367) if data.sequence(i) == sequence]
        kept = [i for i in frames if i in set(held)]
        assert kept == frames[-len(kept) :] and abs(len(kept) - 0.15 * len(frames)) <= 0.5
