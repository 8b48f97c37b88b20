"""The table of networks."""

from typing import Any, Callable, Dict, List

from ..nn.layers import BLENDS
from ..ops import checks
from . import pyramid, single_scale
from .mobilenet_v2 import MobileNetV2
from .resnet import ResNet
from .swiftnet import HEADS, SwiftNet


def _resnet18(levels: int = 0) -> ResNet:
    return ResNet((2, 2, 2, 2), levels)


def _resnet34(levels: int = 0) -> ResNet:
    return ResNet((3, 4, 6, 3), levels)


ENCODERS = {"rn18": _resnet18, "rn34": _resnet34, "mnv2": MobileNetV2}  # type: Dict[str, Callable[..., Any]]
SINGLE_SCALE = {"swiftnet_" + encoder: encoder for encoder in ENCODERS}
PYRAMID = {"swiftnet_pyr_" + encoder: encoder for encoder in ENCODERS}
MODELS = list(SINGLE_SCALE) + list(PYRAMID)

# the first value is the default
_COMMON = {
    "head": HEADS,
    "mode": checks.MODES,
    "blend": BLENDS,
    "half_resolution": (False, True),
}  # type: Dict[str, Any]
_OF_SINGLE_SCALE = dict(_COMMON, spp=(True, False))
_OF_PYRAMID = dict(_COMMON, levels=(3, 2), generation=(2, 1))
CHANNELS = 128  # of the decoder


def option_values(name: str) -> Dict[str, List[Any]]:
    """A network's options with the values they take, the default first; `channels` is any positive integer."""
    values = _OF_SINGLE_SCALE if name in SINGLE_SCALE else _OF_PYRAMID
    return {option: list(choices) for option, choices in values.items()}


def _checked_options(name: str, given: Dict[str, Any]) -> Dict[str, Any]:
    """All options of a network: the given ones, and defaults for the rest."""
    values = option_values(name)
    unknown = sorted(set(given) - set(values) - {"channels"})
    if unknown:
        raise ValueError(
            "build_model: {} has no option {}; there are num_classes, channels, {}".format(
                name, ", ".join(unknown), ", ".join(values)
            )
        )
    options = {option: given.get(option, choices[0]) for option, choices in values.items()}
    for option, value in options.items():
        choices = values[option]
        if value not in choices or type(value) is not type(choices[0]):
            raise ValueError(
                "build_model: {}: expected one of {}, got {!r}; choose one of these".format(
                    option, ", ".join(repr(c) for c in choices), value
                )
            )
    channels = given.get("channels", CHANNELS)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError("build_model: channels: expected a positive integer, got {!r}; 128 is usual".format(channels))
    return dict(options, channels=channels)


def build_model(name: str, num_classes: int = 19, **options: Any) -> SwiftNet:
    """A network with random weights, in train mode.

    Args:
        name: "swiftnet_rn18", "swiftnet_rn34", "swiftnet_mnv2" (single scale: ResNet-18, ResNet-34, MobileNetV2), or
            "swiftnet_pyr_rn18", "swiftnet_pyr_rn34", "swiftnet_pyr_mnv2" (pyramid).
        num_classes: of the logits; 19 (Cityscapes) by default.
        head: "1x1" with bias, or "3x3" without.
        mode: "bilinear" or "nearest" resizing of maps; the logits are always resized bilinearly.
        blend: "3x3", or a lighter upsampling: "grouped", "separable", "inverted_residual", "1x1".
        half_resolution: run on the image halved in height and width; outputs keep the image's size.
        spp: single scale only; False replaces spatial pyramid pooling by a 1×1 (an FPN, the supplement's ablation).
        levels: pyramid only; 3 or 2.
        generation: pyramid only; 2 has a batch norm for each level and plain 1×1 laterals, 1 shares batch norms, has
            BN-ReLU-3×3 laterals and was published with the 3×3 head.
        channels: of the decoder, 128.

    Raises:
        ValueError: an unknown name or option, or a value that an option does not take.
    """
    if name not in MODELS:
        raise ValueError("build_model: name: expected one of {}, got {!r}".format(", ".join(MODELS), name))
    chosen = _checked_options(name, options)
    channels, mode, blend = chosen["channels"], chosen["mode"], chosen["blend"]
    if name in SINGLE_SCALE:
        backbone, decode = ENCODERS[SINGLE_SCALE[name]](), single_scale.decode
        single_scale.attach(backbone, channels, mode, blend, chosen["spp"])
    else:
        levels, generation = chosen["levels"], chosen["generation"]
        backbone, decode = ENCODERS[PYRAMID[name]](levels if generation == 2 else 0), pyramid.decode
        pyramid.attach(backbone, channels, mode, blend, levels, generation)
    return SwiftNet(name, chosen, backbone, decode, num_classes)
