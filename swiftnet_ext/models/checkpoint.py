"""Weights in and out: safetensors, and PyTorch's own files by its weights-only reader; a pickle is never executed."""

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..files import replacing
from ..nn.layers import BLEND_GROUPS
from . import safetensors_file
from .build import CHANNELS, MODELS, build_model, option_values
from .swiftnet import IMAGENET_MEAN, IMAGENET_STD, SwiftNet

FORMAT = "swiftnet_ext 1"
PREPROCESSING = "RGB 0..255; (x - backbone.img_mean) / backbone.img_std inside the model"
SHIPPED = ("camvid_mnv2", "camvid_pyr_mnv2")  # the weights that come with the package, the first by default
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights


class CheckpointError(ValueError):
    """The file is no checkpoint that this package loads; the message names the file and says why."""


class CheckpointInfo(NamedTuple):
    """What a checkpoint holds, told by its keys and shapes, and by its metadata what these don't tell."""

    source: str  # who wrote it
    name: str  # of build_model
    num_classes: int
    options: Dict[str, Any]  # of build_model
    classes: Optional[List[str]]  # the classes' names, where the file says them
    metadata: Dict[str, str]

    def __str__(self) -> str:
        default = {option: values[0] for option, values in option_values(self.name).items()}
        default["channels"] = CHANNELS
        options = ["{}={!r}".format(k, v) for k, v in self.options.items() if default[k] != v]
        return "{}: {}, {} classes{}".format(
            self.source, self.name, self.num_classes, "".join(", " + option for option in options)
        )


def shipped_weights(name: Optional[str] = None) -> str:
    """The path of weights that come with the package: "camvid_mnv2" (also None) or "camvid_pyr_mnv2".

    Raises:
        ValueError: another name.
    """
    name = SHIPPED[0] if name is None else name
    if name not in SHIPPED:
        raise ValueError("name: expected one of {}, got {!r}".format(", ".join(SHIPPED), name))
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.join(package, "weights", name + ".safetensors")


def _located(path: Optional[str]) -> str:
    """The file of a `load_checkpoint` argument; a file goes before shipped weights of the same name."""
    path = SHIPPED[0] if path is None else os.fspath(path)
    return shipped_weights(path) if path in SHIPPED and not os.path.isfile(path) else path


def _read(path: str) -> safetensors_file.Content:
    """(tensors, metadata) of a file: safetensors, or what PyTorch's save wrote."""
    if not os.path.isfile(path):
        raise CheckpointError("{}: no such file; pass a .safetensors or .pt file".format(path))
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        # zip, or a pickle as it was before PyTorch 1.6; a safetensors file may begin alike, and has its header at byte 8
        if start[8:] != b"{" and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"):
            return _read_of_torch(path), {}
        return safetensors_file.read(path)
    except (safetensors_file.DamagedFile, OSError) as error:
        raise CheckpointError("{}: not a complete safetensors file ({})".format(path, error))


def _read_of_torch(path: str) -> Dict[str, Tensor]:
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        raise CheckpointError(
            "{}: files of torch.save are read by PyTorch 2.6 or later only (earlier ones can be made to run code in "
            "them), this is {}; load and save_checkpoint it there".format(path, torch.__version__)
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file may raise anything
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            "{}: PyTorch's weights-only reader refuses it ({}: {}); save its state dict alone".format(
                path, type(error).__name__, reason[:200]
            )
        )
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise CheckpointError("{}: expected a state dict, keys with tensors; save model.state_dict()".format(path))
    for k, v in content.items():  # a view of one number can claim any shape
        dense = v.layout == torch.strided and v.device.type == "cpu"
        if not dense or v.numel() * v.element_size() > v.untyped_storage().nbytes():
            raise CheckpointError(
                "{}: {} {} is not stored number by number; save contiguous tensors".format(path, k, list(v.shape))
            )
    if content and all(k.startswith("module.") for k in content):  # of DataParallel
        content = {k[len("module.") :]: v for k, v in content.items()}
    return dict(content)


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


def _blend(tensors: Dict[str, Tensor], unit: str, path: str) -> Dict[str, Any]:
    """The blend and its channels. The largest weight must have its whole shape, so that a small file can't ask for a
    network larger than itself."""
    norm = tensors.get(unit + "norm.weight")
    c = CHANNELS if norm is None else norm.numel()
    largest = {
        "3x3": ("conv.weight", (c, c, 3, 3)),
        "grouped": ("conv.weight", (c, c // BLEND_GROUPS, 3, 3)),
        "1x1": ("conv.weight", (c, c, 1, 1)),
        "separable": ("conv.pointwise.weight", (c, c, 1, 1)),
        "inverted_residual": ("conv.0.weight", (2 * c, c, 1, 1)),
    }
    given = [unit + key for key in ("conv.weight", "conv.pointwise.weight", "conv.0.weight") if unit + key in tensors]
    for blend, (key, shape) in largest.items():
        if unit + key in given and tuple(tensors[unit + key].shape) == shape:
            return {"blend": blend, "channels": c}
    if given:
        shapes = ", ".join(str(list(shape)) for key, shape in largest.values() if unit + key == given[0])
        raise CheckpointError(
            "{}: {} is {} and fits no blend, expected {}".format(path, given[0], list(tensors[given[0]].shape), shapes)
        )
    return {}


def _options(tensors: Dict[str, Tensor], pyramid: bool, path: str) -> Dict[str, Any]:
    """The options that keys and shapes tell."""
    options = _blend(tensors, "backbone.{}.blend_conv.".format("upsample_blends.0" if pyramid else "upsample.2"), path)
    channels, head = options.get("channels", CHANNELS), tensors["logits.conv.weight"].shape
    heads = {"1x1": (channels, 1, 1), "3x3": (channels, 3, 3)}
    fitting = [name for name, shape in heads.items() if tuple(head[1:]) == shape]
    if not fitting:
        raise CheckpointError(
            "{}: logits.conv.weight is {}, expected [classes, {c}, 1, 1] or [classes, {c}, 3, 3]".format(
                path, list(head), c=channels
            )
        )
    options["head"] = fitting[0]
    if pyramid:
        options["levels"] = len({k.split(".")[2] for k in tensors if k.startswith("backbone.upsample_blends.")}) - 2
        options["generation"] = 2 if "backbone.upsample_bottlenecks.0.weight" in tensors else 1
    else:
        options["spp"] = "backbone.spp.conv.weight" not in tensors
    return options


def _detect(tensors: Dict[str, Tensor], metadata: Dict[str, str], path: str) -> CheckpointInfo:
    if "backbone.features.0.0.weight" in tensors:
        encoder = "mnv2"
    elif "backbone.conv1.weight" in tensors:
        encoder = "rn34" if "backbone.layer3.2.conv1.weight" in tensors else "rn18"
    else:
        first = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise CheckpointError(
            "{}: not a SwiftNet checkpoint: it holds {} …; ImageNet encoders go to load_imagenet_encoder".format(
                path, first
            )
        )
    if "logits.conv.weight" not in tensors:
        raise CheckpointError("{}: not a SwiftNet checkpoint: it has no logits.conv.weight".format(path))
    pyramid = any(k.startswith("backbone.upsample_blends.") for k in tensors)
    name = "swiftnet_{}{}".format("pyr_" if pyramid else "", encoder)
    stated = metadata.get("model", name)
    if stated != name:
        known = "its keys are {}'s".format(name) if stated in MODELS else "this version has " + ", ".join(MODELS)
        raise CheckpointError("{}: holds a model {!r}; {}".format(path, stated, known))
    options = _options(tensors, pyramid, path)
    try:  # keys tell the rest
        stated_options = json.loads(metadata.get("options", "{}"))
        classes = json.loads(metadata.get("classes", "null"))
    except (RecursionError, ValueError) as error:
        raise CheckpointError("{}: its metadata is damaged: {}".format(path, error))
    for option in ("mode", "half_resolution"):
        if isinstance(stated_options, dict) and option in stated_options:
            options[option] = stated_options[option]
    if metadata.get("format", "").startswith("swiftnet_ext"):
        source = "swiftnet_ext"
    else:
        generation = 2 if "backbone.img_mean" in tensors else 1
        source = "published names, {} generation".format("second" if generation == 2 else "first")
    count = int(tensors["logits.conv.weight"].shape[0])
    named = isinstance(classes, list) and len(classes) == count and all(isinstance(c, str) for c in classes)
    if classes is not None and not named:
        raise CheckpointError("{}: its metadata is damaged: expected {} class names".format(path, count))
    return CheckpointInfo(source, name, count, options, classes, metadata)


def inspect_checkpoint(path: Optional[str] = None) -> CheckpointInfo:
    """What a checkpoint holds; `str()` of it is a line.

    Args, Raises: as load_checkpoint.
    """
    path = _located(path)
    return _detect(*_read(path), path)


def _build(tensors: Dict[str, Tensor], metadata: Dict[str, str], path: str) -> Tuple[SwiftNet, CheckpointInfo]:
    info = _detect(tensors, metadata, path)
    try:
        model = build_model(info.name, info.num_classes, **info.options)
    except ValueError as error:
        raise CheckpointError("{}: {}".format(path, error))
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    if "backbone.img_mean" not in tensors and "backbone.img_std" not in tensors:  # the first generation
        tensors["backbone.img_mean"] = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        tensors["backbone.img_std"] = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    _load_strictly(model, tensors, path, repr(model))
    return model, info


def from_state_dict(tensors: Dict[str, Tensor], source: str) -> SwiftNet:
    """The network of a state dict, in fp32, on the CPU, in eval mode; as `load_checkpoint`.

    Raises:
        CheckpointError: it does not fit; the message begins with `source`.
    """
    return _build(tensors, {}, source)[0].eval()


def load_checkpoint(path: Optional[str] = None) -> SwiftNet:
    """The network of a checkpoint, in fp32, on the CPU, in eval mode.

    Keys and shapes tell the network, the published code's of both generations too; metadata the resize mode and half
    resolution. The first generation's weights expect RGB / 255 with ImageNet's mean and standard deviation: that is this
    package's normalisation of RGB 0..255.

    Args:
        path: a .safetensors file, or a state dict of torch.save (read without executing anything; PyTorch 2.6 or later);
            "camvid_mnv2" (also None) or "camvid_pyr_mnv2" for the weights that come with the package: single scale and
            pyramid, MobileNetV2, CamVid's 11 classes.

    Returns:
        The network; `classes` are the classes' names where the file has them, else None, and `loaded_from` says what was
        found.

    Raises:
        CheckpointError: a file that is no checkpoint, or does not fit; the first differences are listed.
    """
    path = _located(path)
    tensors, metadata = _read(path)
    model, info = _build(tensors, metadata, path)
    model.classes, model.loaded_from = info.classes, "{}: {}".format(path, info)
    return model.eval()


def save_checkpoint(
    model: SwiftNet, path: str, classes: Optional[Sequence[str]] = None, notes: Optional[Dict[str, str]] = None
) -> None:
    """Writes a model's weights with what is needed to build it again; the file is replaced as a whole or not at all.

    Args:
        model: of build_model or load_checkpoint.
        path: the .safetensors file.
        classes: the classes' names; the model's own if left out.
        notes: what else the file shall say of itself, e.g. {"data": ..., "licence": ...}; `swiftnet inspect` shows it.

    Raises:
        ImportError: safetensors is not installed. OSError: the file can't be written. ValueError: not as many names as
        the model has classes, or a note of a name that the file needs itself.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise ImportError('save_checkpoint needs safetensors: pip install "swiftnet_ext[cli]"')
    names = model.classes if classes is None else list(classes)
    if names is not None and len(names) != model.num_classes:
        raise ValueError("classes: expected {} names, got {}; name each".format(model.num_classes, len(names)))
    metadata = {
        "format": FORMAT,
        "model": model.name,
        "options": json.dumps(model.options),
        "preprocessing": PREPROCESSING,
    }
    if names is not None:
        metadata["classes"] = json.dumps(names)
    taken = sorted({*metadata, "classes"} & set(notes or {}))
    if taken:
        raise ValueError("notes: {} is the file's own; choose another name".format(", ".join(taken)))
    metadata.update(notes or {})
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(Path(os.fspath(path))) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))  # save_file's would be the user's alone to read


def _for_levels(tensors: Dict[str, Tensor], expected: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """A batch norm that the encoder has for each level takes its weights at every level."""
    leveled = {}
    for key in expected:
        shared = re.sub(r"\.\d+\.([a-z_]+)$", r".\1", key)
        if key not in tensors and shared in tensors:
            leveled[key] = tensors[shared]
    used = {re.sub(r"\.\d+\.([a-z_]+)$", r".\1", key) for key in leveled}
    return dict({k: v for k, v in tensors.items() if k not in used}, **leveled)


def load_imagenet_encoder(model: SwiftNet, weights: Any, parts: int = 5) -> None:
    """Loads ImageNet weights in torchvision's key names into a model's encoder; classifier and last layers are left out.

    torchvision's networks expect RGB / 255 with ImageNet's mean and standard deviation: the model's own normalisation
    of RGB 0..255 is the same. Batch norms that a pyramid has for each level all start from the same weights.

    Args:
        model: of build_model.
        weights: a .safetensors file, a state dict of torch.save (see load_checkpoint), or a state dict.
        parts: how many of the stem and the four stages (RB1 to RB4) take them, from the image on; the rest keeps what it
            has. Source: SwiftNet's supplementary, partial initialisation.

    Raises:
        CheckpointError: a key or shape does not fit; nothing is loaded then. ValueError: parts is not 0 to 5.
    """
    groups = model.backbone.parts
    if isinstance(parts, bool) or not isinstance(parts, int) or not 0 <= parts <= len(groups):
        raise ValueError(
            "load_imagenet_encoder: parts: expected 0 to {}, got {!r}; 1 is the stem, each further one a stage".format(
                len(groups), parts
            )
        )
    source = "weights" if isinstance(weights, dict) else os.fspath(weights)
    tensors = weights if isinstance(weights, dict) else _read(source)[0]
    left_out = ("fc.", "classifier.", "features.18.")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items() if not k.startswith(left_out)}
    prefixes = tuple(prefix for group in groups for prefix in group)
    state = model.backbone.state_dict()
    own = {k: v for k, v in state.items() if not k.startswith(prefixes)}
    overlap = sorted(set(own) & set(tensors))
    if overlap:
        raise CheckpointError("{}: holds {}, which is no encoder's; use load_checkpoint".format(source, overlap[0]))
    tensors = _for_levels(tensors, state)
    kept = tuple(prefix for group in groups[parts:] for prefix in group)
    tensors = {k: v for k, v in tensors.items() if not kept or not k.startswith(kept)}
    tensors.update({k: v for k, v in state.items() if k in own or (kept and k.startswith(kept))})
    _load_strictly(model.backbone, tensors, source, "the encoder of " + repr(model))
