"""Any network whose structure is known, as one of `build_model`: told by its state dict, verified by running both."""

import copy
from typing import Any, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..models import SwiftNet, build_model
from ..models.checkpoint import CheckpointError, from_state_dict
from ..nn.multi_scale import Ensemble
from ..ops import reference
from ..ops.backend import reference_in_this_thread

# [N, 3, H, W] of the images that both run on: odd at several strides, and even at every stride down to the last
SHAPES = (1, 3, 70, 101), (2, 3, 64, 96)
TOLERANCE = 1e-4  # of the largest logit; fp32, sums in another order


class OptimizeError(ValueError):
    """A network that can't be optimised; the message says why."""


def recognise(model: nn.Module) -> SwiftNet:
    """A network of `build_model` with the model's weights, not yet compared with it; `model` may be one itself."""
    if isinstance(model, Ensemble):
        raise OptimizeError(
            f"optimize: model: {type(model).__name__} averages networks; optimise these, and put the results into it"
        )
    if isinstance(model, SwiftNet):
        return model
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    try:
        return _with_eps_of(model, from_state_dict(state, f"optimize: model ({type(model).__name__})"))
    except CheckpointError as error:
        raise OptimizeError(f"{error}; optimize takes networks of build_model, and such with the published names")


def _with_eps_of(model: nn.Module, network: SwiftNet) -> SwiftNet:
    """The network, its batch norms with the model's eps, which no state dict tells."""
    given = dict(model.named_modules(remove_duplicate=False))
    for path, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = getattr(given.get(path), "eps", module.eps)
    return network


def _image(shape: Sequence[int]) -> Tensor:
    drawn: Any = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    coarse = torch.rand(*shape[:2], 9, 13, **drawn) * 255
    return reference.resize(coarse, shape[2:], "bilinear") * 0.8 + torch.rand(*shape, **drawn) * 51


def expected_logits(model: nn.Module) -> List[Tuple[Tensor, Tensor]]:
    """(images, what a copy of the model in fp32 on the CPU gives for them), of every shape."""
    found = []
    trial: Any = None
    for shape in SHAPES:
        images = _image(shape)
        try:
            trial = trial or copy.deepcopy(model).cpu().float().eval()
            with torch.no_grad(), reference_in_this_thread():
                y: Any = trial(images.clone())
        except Exception as error:  # the model is the user's: whatever it raises is the reason
            raise OptimizeError(
                f"optimize: model: a copy in fp32 on the CPU could not be run on images {list(shape)}: "
                f"{type(error).__name__}: {error}; it must take float RGB 0..255 of any size and normalise it"
            )
        if isinstance(y, (tuple, list)) and y and isinstance(y[0], Tensor):
            y = y[0]  # published networks give more beside the logits
        if not isinstance(y, Tensor) or y.dim() != 4:
            got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise OptimizeError(f"optimize: model: expected it to give logits [N, classes, H, W], got {got}")
        found.append((images, y))
    return found


def difference(images: Tensor, logits: Tensor, expected: Tensor) -> Tuple[float, str]:
    """(largest difference by the largest expected value, what differs in words or nothing); logits come at stride 4."""
    if logits.shape != expected.shape:
        logits = reference.resize(logits, images.shape[2:], "bilinear")
    if logits.shape != expected.shape:
        return float("inf"), f"it gives {list(expected.shape)}, the rebuilt network {list(logits.shape)}"
    if not bool(torch.isfinite(expected).all()):
        return float("inf"), "it gives NaN or Inf for an ordinary image"
    largest = float(expected.abs().max())
    relative = float((logits - expected).abs().max()) / max(largest, 1e-30)
    if relative <= TOLERANCE:
        return relative, ""
    labels = 100 * float((logits.argmax(1) == expected.argmax(1)).float().mean())
    what = f"logits differ by {relative:.2g} of the largest, labels agree in {labels:.2f} % of the pixels"
    return relative, f"{what} of images {list(images.shape)}"


def variants(model: nn.Module, found: SwiftNet) -> Iterator[SwiftNet]:
    """What the model may be, as far as `recognise` can't tell it from the state dict."""
    if isinstance(model, SwiftNet):
        yield found
        return
    for half_resolution in (False, True):
        for mode in ("bilinear", "nearest"):
            options = dict(found.options, mode=mode, half_resolution=half_resolution)
            network = build_model(found.name, found.num_classes, **options).eval()
            network.load_state_dict(found.state_dict())
            yield _with_eps_of(model, network)
