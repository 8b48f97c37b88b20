"""The page of experiments says what the result files say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import reproduction


def result(row, seed, miou, **more):
    config = {
        "run": {"epochs": 3, "batch": 4, "precision": "32-true"},
        "data": {"crop": 64, "scale": [0.5, 2.0]},
        "loss": {"class_balance": 0.3},
        "optimizer": {"lr": 1e-3},
    }
    record = {
        "row": row,
        "seed": seed,
        "mIoU": miou,
        "device": "a-device",
        "date": "2026-01-02",
        "commit": "abcdef1234567",
    }
    return dict(record, torch="2.0", config=config, history=[{"epoch": 1, "loss": 1.0}], IoU={"Sky": miou}, **more)


def group(name, miou):
    return {"name": name, "share": 7.0, "mIoU": miou, "IoU": {"Sky": None, "Road": miou}, "absent": ["Sky"]}


@pytest.fixture
def folder(tmp_path):
    near = [group("nearest 5 %, from 9 px", 40.0), group("farthest 5 %, to 1 px", 20.0), group("0 to 2 px", 21.0)]
    far = [group("nearest 5 %, from 9 px", 41.0), group("farthest 5 %, to 1 px", 22.0), group("0 to 2 px", 21.0)]
    records = [
        result("baseline", 0, 60.0), result("baseline", 1, 62.0),
        result("half_resolution", 0, 55.0), result("half_resolution", 1, 58.0),
        result("nearest", 0, 60.5), result("nearest", 1, 61.5),
        result("without_spp", 0, 61.0), result("without_spp", 1, 63.0),
        result("pyramid_2", 0, 61.0),
        result("synthetic_single", 0, 50.0, disparity=near), result("synthetic_single", 1, 50.0, disparity=near),
        result("synthetic_pyramid", 0, 51.0, disparity=far), result("synthetic_pyramid", 1, 51.0, disparity=far),
    ]  # fmt: skip
    results = tmp_path / "a-device" / "experiments"
    results.mkdir(parents=True)
    for record in records:
        (results / f"{record['row']}-{record['seed']}.json").write_text(json.dumps(record))
    return tmp_path


def test_the_page(folder):
    page = reproduction.page(reproduction.load(folder))
    lines = page.split("## Networks")[1].splitlines()
    assert "| single scale, full resolution, bilinear, SPP | 61.00 | 60.00, 62.00 | | 75.35 | | |" in lines
    assert "| half resolution | 56.50 | 55.00, 58.00 | -4.50 | 70.20 | -5.15 | agrees |" in lines
    assert (
        "| nearest instead of bilinear | 61.00 | 60.50, 61.50 | +0.00 | 73.69 | -1.66 | seeds disagree: no conclusion |"
        in lines
    )
    assert "| without SPP | 62.00 | 61.00, 63.00 | +1.00 | 71.47 | -3.88 | differs |" in lines
    assert "| pyramid, 2 levels | 61.00 | 61.00 | +1.00 | 75.45 | +0.10 | one seed: no conclusion |" in lines
    assert "| pyramid, 3 levels | not run |  |  | 74.90 | -0.45 | not run |" in lines
    summary = page.split("## What agrees, and what does not")[1].split("\n## ")[0]
    agrees, differs = summary.split("**agrees**")[1].split("**differs**")
    assert "- Networks: half resolution (-4.50, the paper's -5.15)" in agrees.splitlines()
    assert "- Networks: without SPP (+1.00, the paper's -3.88)" in differs.split("**")[0].splitlines()
    assert "- By disparity: the pyramid on the farthest 5 % (+2.00, the paper's -3.20)" in differs
    lines = page.split("## By disparity")[1].splitlines()
    assert "| nearest 5 %, from 9 px | 7.0 | 1 | 40.00, 40.00 | 41.00, 41.00 | +1.00, +1.00 | agrees |" in lines
    assert "| farthest 5 %, to 1 px | 7.0 | 1 | 20.00, 20.00 | 22.00, 22.00 | +2.00, +2.00 | differs |" in lines
    assert "| 0 to 2 px | 7.0 | 1 | 21.00, 21.00 | 21.00, 21.00 | +0.00, +0.00 | equal |" in lines
    assert "- a-device: 13 results, 2026-01-02 to 2026-01-02, PyTorch 2.0, commits abcdef123" in lines
    assert "Schedule: 3 epochs, batches of 4 crops of 64" in page


def test_its_charts(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "CHARTS", tmp_path / "charts")
    results = reproduction.load(folder)
    reproduction.draw(results)
    drawn = {path.name for path in (tmp_path / "charts").iterdir()}
    named = {part.split(")")[0] for part in reproduction.page(results).split("](reproduction/")[1:]}
    assert named == drawn


def test_every_row_is_an_experiment():
    from swiftnet_ext.engine.experiments import read_table

    table = read_table()
    shown = {row.name for section in reproduction.SECTIONS for row in section.rows}
    shown |= {row.name for row in reproduction.BY_DISPARITY}
    assert shown == {*table.trained, *table.derived}
