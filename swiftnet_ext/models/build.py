"""The table of networks."""

from typing import Any, Callable, Dict

from .mobilenet_v2 import MobileNetV2
from .resnet import ResNet
from .single_scale import SwiftNet

MODELS = {
    "swiftnet_rn18": lambda **options: SwiftNet("swiftnet_rn18", ResNet((2, 2, 2, 2)), **options),
    "swiftnet_mnv2": lambda **options: SwiftNet("swiftnet_mnv2", MobileNetV2(), **options),
}  # type: Dict[str, Callable[..., SwiftNet]]
OPTIONS = ("head", "mode", "channels")


def build_model(name: str, num_classes: int = 19, **options: Any) -> SwiftNet:
    """A network with random weights, in train mode.

    Args:
        name: "swiftnet_rn18" or "swiftnet_mnv2".
        num_classes: of the logits; 19 (Cityscapes) by default.
        head: "1x1" with bias, or "3x3" without.
        mode: "bilinear" or "nearest" resizing of maps.
        channels: of the decoder, 128.

    Raises:
        ValueError: an unknown name or option, or a value that an option does not take.
    """
    if name not in MODELS:
        raise ValueError("build_model: name: expected one of {}, got {!r}".format(", ".join(MODELS), name))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(
            "build_model: unknown option {}; there are {}".format(
                ", ".join(unknown), "num_classes, " + ", ".join(OPTIONS)
            )
        )
    return MODELS[name](num_classes=num_classes, **options)
