"""The table of sizes, against figures computed by hand elsewhere; the network's own convolutions count once more here."""

import json
from pathlib import Path

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.cli import print_sizes
from swiftnet_ext.models.build import ENCODERS, option_values
from swiftnet_ext.nn.fused import plain_pytorch

pytest.importorskip("torch.utils.flop_counter", reason="it came with PyTorch 2.1")
from swiftnet_ext.engine import table

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"

# model, options → parameters, GMAC (None: no figure was computed elsewhere)
NETWORKS = [
    ("swiftnet_rn18", {}, 11_797_071, 103.57),
    ("swiftnet_rn18", {"half_resolution": True}, 11_797_071, 25.89),
    ("swiftnet_mnv2", {"head": "3x3"}, 2_388_268, 40.70),
    ("swiftnet_mnv2", {"head": "3x3", "half_resolution": True}, 2_388_268, 10.18),
    ("swiftnet_pyr_rn18", {"levels": 2}, 11_900_755, 123.25),
    ("swiftnet_pyr_rn18", {}, 12_056_275, 128.19),
    ("swiftnet_pyr_rn18", {"generation": 1, "head": "3x3", "levels": 2}, 12_897_344, None),
    ("swiftnet_pyr_rn18", {"generation": 1, "head": "3x3"}, 13_045_056, None),
    ("swiftnet_rn18", {"head": "3x3"}, 11_816_508, None),
]
# model, blend → decoder parameters, GMAC, and the paper's of both
UPSAMPLING = [
    ("swiftnet_rn18", "3x3", 639_996, None, 636_000, None),
    ("swiftnet_rn18", "grouped", 252_924, 83.92, 252_000, 84.1),
    ("swiftnet_rn18", "separable", 250_236, 83.77, 250_000, 84.0),
    ("swiftnet_rn18", "inverted_residual", 404_988, 92.42, 405_000, 92.7),
    ("swiftnet_rn18", "1x1", 246_780, 83.57, 247_000, 83.8),
    ("swiftnet_mnv2", "3x3", 567_340, 13.04, 567_000, 13.1),
    ("swiftnet_mnv2", "grouped", 180_268, 5.72, 180_000, 5.9),
    ("swiftnet_mnv2", "separable", 177_580, 5.67, 178_000, 5.8),
    ("swiftnet_mnv2", "inverted_residual", 332_332, 8.52, 332_000, 8.6),
    ("swiftnet_mnv2", "1x1", 174_124, 5.60, 174_000, 5.7),
]


@pytest.fixture(scope="module")
def records(swiftnet_process):
    """What the command prints as JSON: everything is counted once, for all tests."""
    result = swiftnet_process("table", "--format", "json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def rows(records):
    return [table.Row(**{field: record[field] for field in table.Row._fields}) for record in records]


def found(rows, model, options, *groups):
    (row,) = [r for r in rows if r.model == model and r.options == options and r.group in groups]
    return row


def assert_gmac(row, gmac):
    assert gmac is None or round(row.macs / 1e9, 2) == gmac  # less than 0.1 %, as the smallest is 5.60


@pytest.mark.parametrize("model, options, parameters, gmac", NETWORKS)
def test_networks(rows, model, options, parameters, gmac):
    row = found(rows, model, options, "networks", "variants")
    assert row.parameters == parameters and (row.height, row.width, row.num_classes) == (1024, 2048, 19)
    assert_gmac(row, gmac)


@pytest.mark.parametrize("model, blend, decoder, gmac, paper_decoder, paper_gmac", UPSAMPLING)
def test_upsampling(rows, model, blend, decoder, gmac, paper_decoder, paper_gmac):
    row = found(rows, model, {"head": "3x3", **({} if blend == "3x3" else {"blend": blend})}, "upsampling")
    image = (1024, 2048, 19) if model == "swiftnet_rn18" else (720, 960, 11)
    assert row.decoder_parameters == decoder and (row.height, row.width, row.num_classes) == image
    assert (row.paper_decoder_parameters, row.paper_gmac) == (paper_decoder, paper_gmac)
    assert_gmac(row, gmac)


def test_the_papers_figures_stand_where_the_paper_has_one(rows):
    paper = {(r.model, *r.options.items()): (r.paper_parameters, r.paper_gmac) for r in rows if r.group == "networks"}
    half, head = ("half_resolution", True), ("head", "3x3")
    wanted = {
        ("swiftnet_rn18",): (11_800_000, 104.0),
        ("swiftnet_rn18", half): (11_800_000, 26.0),
        ("swiftnet_mnv2", head): (None, 41.0),
        ("swiftnet_mnv2", head, half): (None, 10.3),
    }
    assert {key: figures for key, figures in paper.items() if figures != (None, None)} == wanted
    assert all(r.paper_gmac is None and r.paper_parameters is None for r in rows if r.group == "variants")


def test_every_value_of_every_option_is_there(rows):
    cityscapes = [(r.model, r.options) for r in rows if r.num_classes == 19]
    for name in sx.models.MODELS:
        assert (name, {}) in cityscapes
        for option, values in option_values(name).items():
            for value in values[1:]:
                assert (name, {option: value}) in cityscapes


@pytest.mark.parametrize(
    "name, options, levels",
    [
        ("swiftnet_mnv2", {"blend": "grouped"}, 0),
        ("swiftnet_rn18", {"blend": "inverted_residual", "spp": False, "head": "3x3"}, 0),
        ("swiftnet_pyr_rn18", {"generation": 1, "levels": 2}, 0),
        ("swiftnet_pyr_mnv2", {"half_resolution": True}, 3),
    ],
)
def test_a_real_run_has_as_many(name, options, levels):
    """Counted from the outputs of a network that computes, on a size that is no multiple of anything."""
    model, macs = sx.build_model(name, 5, **options).eval(), []

    def add(conv, inputs, output):
        macs.append(output.numel() * conv.weight[0].numel())

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad(), plain_pytorch():
        model(torch.zeros(1, 3, 97, 131))
    parameters, decoder, counted = table.count(name, options, 97, 131, 5)
    encoder = sum(p.numel() for p in ENCODERS[name.split("_")[-1]](levels).parameters())
    assert counted == sum(macs) and parameters == sum(p.numel() for p in model.parameters())
    assert decoder == parameters - encoder


def test_the_committed_page_is_what_is_counted_now(rows):
    assert PAGE.read_text(encoding="utf-8") == table.as_markdown(rows) + "\n", (
        "docs/tables.md differs; run swiftnet table --format markdown > docs/tables.md"
    )


def test_json_is_exact(rows, records):
    assert json.loads(table.as_json(rows)) == records
    first = records[0]
    assert (first["model"], first["parameters"], first["macs"]) == ("swiftnet_rn18", 11_797_071, rows[0].macs)
    assert isinstance(first["macs"], int) and first["paper_gmac"] == 104.0
    assert first["gmac_deviation_percent"] == pytest.approx(100 * (rows[0].macs / 104e9 - 1))
    (grouped,) = [r for r in records if r["options"] == {"head": "3x3", "blend": "grouped"} and r["num_classes"] == 19]
    assert grouped["parameters_deviation_percent"] == pytest.approx(100 * (252_924 / 252_000 - 1))


def test_text_has_columns(rows):
    lines = table.as_text(rows[:2]).splitlines()
    assert lines[0] == "Networks" and len({len(line) for line in lines[1:4]}) == 1
    assert lines[2].split() == (
        ["swiftnet_rn18", "2048x1024", "19", "11,797,071", "11.8M", "-0.02", "%", "103.57", "104.0", "-0.42", "%"]
    )


def test_text_is_whole_when_piped(rows, monkeypatch, capsys):
    monkeypatch.setattr(table, "rows", lambda: rows)
    monkeypatch.setenv("COLUMNS", "40")
    print_sizes("text")
    assert capsys.readouterr().out == table.as_text(rows) + "\n"


def test_an_unknown_format_is_one_line(swiftnet):
    error = "swiftnet: --format csv: expected one of text, markdown, json\n"
    assert swiftnet("table", "--format", "csv") == (2, "", error)
