"""Parameters and multiply-accumulates of every network and variant, counted, beside the paper's figures.

The paper is SwiftNet (CVPR 2019) with its supplementary; what it calls FLOPs are multiply-accumulates of convolutions.
"""

import json
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import MODELS, build_model
from ..models.build import option_values
from ..nn.fused import plain_pytorch
from ..nn.layers import BLENDS
from .paper import CAMVID, CITYSCAPES, NETWORKS, UPSAMPLING, WITH_3X3

TITLES = {
    "networks": "Networks",
    "upsampling": "Upsampling: the five blends; of the parameters, those that are not pre-trained on ImageNet",
    "variants": "Variants: one option other than its default, where it is not above",
}
COLUMNS = ("network", "image", "classes", "parameters", "paper", "deviation", "GMAC", "paper", "deviation")
NOTE = (
    "GMAC: 10^9 multiply-accumulates of the convolutions alone, without biases; the paper calls them FLOPs. A deviation is "
    "of what is counted here from the paper's rounded figure; - is where the paper has none."
)


class Row(NamedTuple):
    """A network of `build_model` on one image; `options` are those that are not default. The paper's figures are rounded."""

    group: str
    model: str
    options: Dict[str, Any]
    height: int
    width: int
    num_classes: int
    parameters: int
    decoder_parameters: int  # everything that is not pre-trained on ImageNet: the decoder and the head
    macs: int
    paper_parameters: Optional[int] = None
    paper_decoder_parameters: Optional[int] = None
    paper_gmac: Optional[float] = None

    def shown_parameters(self) -> Tuple[int, Optional[int]]:
        """What the group compares, and the paper's."""
        if self.group == "upsampling":
            return self.decoder_parameters, self.paper_decoder_parameters
        return self.parameters, self.paper_parameters


def deviation(counted: float, paper: Optional[float]) -> Optional[float]:
    """Of a count from the paper's figure, in percent; None where the paper has none."""
    return None if paper is None else 100 * (counted / paper - 1)


def _without_pointwise(model: nn.Module) -> None:
    """Takes out what changes no shape: on the meta device it is most of the time."""
    for parent in list(model.modules()):
        for key, child in parent.named_children():
            if isinstance(child, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)):
                setattr(parent, key, nn.Identity())


def count(name: str, options: Dict[str, Any], height: int, width: int, num_classes: int) -> Tuple[int, int, int]:
    """(parameters, those that are not pre-trained on ImageNet, multiply-accumulates for one image).

    Nothing is computed: the network is built on PyTorch's meta device. Only convolutions count, and no matrix products
    that may resize the images of a pyramid.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes, **options).eval()
        image = torch.empty(1, 3, height, width)
    sizes = {key: p.numel() for key, p in model.named_parameters()}
    _without_pointwise(model)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), plain_pytorch(), counter:
        model(image)
    flops = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    pretrained = tuple("backbone." + key for part in model.backbone.parts for key in part)
    decoder = sum(n for key, n in sizes.items() if not key.startswith(pretrained))
    return sum(sizes.values()), decoder, flops // 2


def variants() -> List[Tuple[str, Dict[str, Any]]]:
    """Every network with every option, one at a time, at every value but the default; without those of NETWORKS."""
    found = [
        (name, {option: value})
        for name in MODELS
        for option, values in option_values(name).items()
        for value in values[1:]
    ]
    listed = [(name, options) for name, options, _, _ in NETWORKS]
    return [variant for variant in found if variant not in listed]


def rows() -> Iterator[Row]:
    """Every row, counted when it is asked for."""
    for name, options, parameters, gmac in NETWORKS:
        counted = count(name, options, *CITYSCAPES)
        yield Row("networks", name, options, *CITYSCAPES, *counted, paper_parameters=parameters, paper_gmac=gmac)
    for name, image in (("swiftnet_rn18", CITYSCAPES), ("swiftnet_mnv2", CAMVID)):
        for blend in BLENDS:
            # the default is left out here as everywhere
            options = {**WITH_3X3, **({} if blend == BLENDS[0] else {"blend": blend})}
            decoder, gmac = UPSAMPLING[name][blend]
            counted = count(name, options, *image)
            yield Row("upsampling", name, options, *image, *counted, paper_decoder_parameters=decoder, paper_gmac=gmac)
    for name, options in variants():
        yield Row("variants", name, options, *CITYSCAPES, *count(name, options, *CITYSCAPES))


def _rounded(parameters: Optional[int]) -> str:
    """As the paper prints them."""
    if parameters is None:
        return "-"
    return f"{parameters / 1e6:.1f}M" if parameters >= 1_000_000 else f"{parameters / 1e3:.0f}K"


def _percent(value: Optional[float]) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:+.2f} %"  # + 0.0 turns -0.0 into 0.0


def cells(row: Row) -> List[str]:
    """A row's cells, one for each of COLUMNS."""
    parameters, of_paper = row.shown_parameters()
    gmac, network = row.macs / 1e9, [row.model, *(f"{option}={value}" for option, value in row.options.items())]
    return [
        " ".join(network),
        f"{row.width}x{row.height}",
        str(row.num_classes),
        f"{parameters:,}",
        _rounded(of_paper),
        _percent(deviation(parameters, of_paper)),
        f"{gmac:.2f}",
        "-" if row.paper_gmac is None else f"{row.paper_gmac:.1f}",
        _percent(deviation(gmac, row.paper_gmac)),
    ]


def _groups(counted: Iterable[Row]) -> Iterator[Tuple[str, List[List[str]]]]:
    all_rows = list(counted)
    for group, title in TITLES.items():
        found = [cells(row) for row in all_rows if row.group == group]
        if found:
            yield title, found


def as_text(counted: Iterable[Row]) -> str:
    """Aligned columns, as wide as they need."""
    lines: List[str] = []
    for title, found in _groups(counted):
        widths = [max(map(len, column)) for column in zip(COLUMNS, *found)]
        lines.append(title)
        for line in (COLUMNS, *found):
            padded = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
            lines.append("  ".join(padded))
        lines.append("")
    return "\n".join([*lines, NOTE])


def as_markdown(counted: Iterable[Row]) -> str:
    """The page docs/tables.md."""
    lines = ["# Parameters and multiply-accumulates", "", "Made by `swiftnet table --format markdown`. " + NOTE]
    rule = ("---", *("---:" for _ in COLUMNS[1:]))
    for title, found in _groups(counted):
        lines += ["", "## " + title, ""]
        lines += ["| " + " | ".join(line) + " |" for line in (COLUMNS, rule, *found)]
    return "\n".join(lines)


def as_json(counted: Iterable[Row]) -> str:
    """A list of rows: every field, exact, with the deviations in percent."""
    records = [
        {
            **row._asdict(),
            "parameters_deviation_percent": deviation(*row.shown_parameters()),
            "gmac_deviation_percent": deviation(row.macs / 1e9, row.paper_gmac),
        }
        for row in counted
    ]
    return json.dumps(records, indent=2)


FORMATS: Dict[str, Callable[[Iterable[Row]], str]] = {"text": as_text, "markdown": as_markdown, "json": as_json}
