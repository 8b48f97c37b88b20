"""Weights in and out: safetensors only, never pickle."""

import os
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from . import safetensors_file
from .build import MODELS, build_model
from .swiftnet import SwiftNet

FORMAT = "swiftnet_ext 1"


class CheckpointError(ValueError):
    """The file is no checkpoint that this package loads; the message names the file and says why."""


def default_weights() -> str:
    """The path of the weights that come with the package: MobileNetV2, CamVid's 11 classes."""
    return os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "weights", "camvid_mnv2.safetensors"
    )


def _read(path: str) -> safetensors_file.Content:
    """(tensors, metadata) of a safetensors file."""
    if not os.path.isfile(path):
        raise CheckpointError("{}: no such file; pass a .safetensors file".format(path))
    try:
        return safetensors_file.read(path)
    except (safetensors_file.DamagedFile, OSError) as error:
        raise CheckpointError(
            "{}: not a complete safetensors file ({}); PyTorch's pickled files are not loaded in this version".format(
                path, error
            )
        )


def _differences(expected: Dict[str, Tensor], given: Dict[str, Tensor]) -> List[str]:
    found = ["missing {} {}".format(k, list(expected[k].shape)) for k in expected if k not in given]
    found += ["unexpected {} {}".format(k, list(given[k].shape)) for k in given if k not in expected]
    for k in expected:
        if k in given and expected[k].shape != given[k].shape:
            found.append("{} is {}, expected {}".format(k, list(given[k].shape), list(expected[k].shape)))
        elif k in given and expected[k].is_floating_point() and not given[k].is_floating_point():
            found.append("{} is {}, expected floating point".format(k, given[k].dtype))
    return found


def _load_strictly(module: torch.nn.Module, tensors: Dict[str, Tensor], source: str, target: str) -> None:
    """Every key and shape must fit; only the counters of batches may be absent."""
    expected = module.state_dict()
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked") or k in expected}
    for k, v in expected.items():
        if k.endswith("num_batches_tracked"):
            tensors.setdefault(k, v)
    differences = _differences(expected, tensors)
    if differences:
        shown = "; ".join(differences[:5]) + ("; …" if len(differences) > 5 else "")
        raise CheckpointError("{}: does not fit {}: {} differences: {}".format(source, target, len(differences), shown))
    module.load_state_dict(tensors)


def _detect(tensors: Dict[str, Tensor], metadata: Dict[str, str], path: str) -> Dict[str, Any]:
    """The name and options to build, from the keys; from the metadata what keys don't tell."""
    weight = tensors.get("logits.conv.weight")
    name = "swiftnet_mnv2" if "backbone.features.0.0.weight" in tensors else "swiftnet_rn18"
    if weight is None or weight.dim() != 4 or (name == "swiftnet_rn18" and "backbone.conv1.weight" not in tensors):
        first = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise CheckpointError(
            "{}: not a SwiftNet checkpoint: it holds {} …; ImageNet encoders go to load_imagenet_encoder".format(
                path, first
            )
        )
    stated = metadata.get("model", name)
    if stated not in MODELS:
        raise CheckpointError("{}: holds a model {!r}; this version has {}".format(path, stated, ", ".join(MODELS)))
    # both shapes count only as a whole, so that a small file can't ask for a network larger than itself
    blend = tensors.get("backbone.upsample.2.blend_conv.conv.weight")
    channels = 128 if blend is None or blend.shape != (len(blend), len(blend), 3, 3) else len(blend)
    heads = {torch.Size((channels, 1, 1)): "1x1", torch.Size((channels, 3, 3)): "3x3"}
    if weight.shape[1:] not in heads:
        raise CheckpointError(
            "{}: logits.conv.weight is {}, expected [classes, {}, 1, 1] or [classes, {}, 3, 3]".format(
                path, list(weight.shape), channels, channels
            )
        )
    return {
        "name": stated,
        "num_classes": int(weight.shape[0]),
        "head": heads[weight.shape[1:]],
        "channels": channels,
        "mode": metadata.get("mode", "bilinear"),
    }


def load_checkpoint(path: Optional[str] = None) -> SwiftNet:
    """The network of a safetensors file, in fp32, on the CPU, in eval mode.

    The file's keys tell the encoder, the classes and the head, its metadata the resize mode.

    Args:
        path: the file; None for the weights that come with the package (MobileNetV2, CamVid's 11 classes).

    Raises:
        CheckpointError: a file that is no checkpoint, or does not fit; the first differences are listed.
    """
    path = default_weights() if path is None else os.fspath(path)
    tensors, metadata = _read(path)
    options = _detect(tensors, metadata, path)
    try:
        model = build_model(**options)
    except ValueError as error:
        raise CheckpointError("{}: {}".format(path, error))
    _load_strictly(model, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, path, repr(model))
    return model.eval()


def save_checkpoint(model: SwiftNet, path: str) -> None:
    """Writes a model's weights with what is needed to build it again; the file is replaced as a whole or not at all.

    Raises:
        ImportError: safetensors is not installed. OSError: the file can't be written.
    """
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise ImportError('save_checkpoint needs safetensors: pip install "swiftnet_ext[cli]"')
    metadata = {"format": FORMAT, "model": model.name, "mode": model.options["mode"]}  # the keys tell the rest
    path = os.fspath(path)
    temporary = "{}.{}.tmp".format(path, os.getpid())
    try:
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def load_imagenet_encoder(model: SwiftNet, weights: Any) -> None:
    """Loads ImageNet weights in torchvision's key names into a model's encoder; classifier and last layers are left out.

    torchvision's networks expect RGB / 255 with ImageNet's mean and standard deviation: the model's own normalisation
    of RGB 0..255 is the same.

    Args:
        model: of build_model.
        weights: a .safetensors file, or a state dict.

    Raises:
        CheckpointError: a key or shape does not fit; nothing is loaded then.
    """
    source = "weights" if isinstance(weights, dict) else os.fspath(weights)
    tensors = weights if isinstance(weights, dict) else _read(source)[0]
    left_out = ("fc.", "classifier.", "features.18.")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items() if not k.startswith(left_out)}
    own = {k: v for k, v in model.backbone.state_dict().items() if k.startswith(("spp.", "upsample.", "img_"))}
    overlap = sorted(set(own) & set(tensors))
    if overlap:
        raise CheckpointError("{}: holds {}, which is no encoder's; use load_checkpoint".format(source, overlap[0]))
    tensors.update(own)
    _load_strictly(model.backbone, tensors, source, "the encoder of " + repr(model))
