"""Networks for inference only: folded, laid out for the device, each step by what is fastest there."""

from typing import Any

import torch
from torch import nn

from ..ops.backend import reference_in_this_thread
from .fold import fold
from .network import OptimizedNetwork
from .plan import Plan
from .recognise import TOLERANCE, OptimizeError, difference, expected_logits, recognise, variants
from .run_torch import TorchRun

__all__ = ["OptimizeError", "OptimizedNetwork", "optimize"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def optimize(
    model: nn.Module, *, device: Any = None, dtype: Any = None, graphs: Any = "auto", measure: bool = True
) -> OptimizedNetwork:
    """A copy of a network for inference, as fast as this package can make it on a device.

    Batch norms, the image's normalisation, residual sums and activations go into the convolutions, in float64 (exact but
    for rounding); weights are packed once; each step runs by what was measured to be fastest. `print` of the result says
    what runs where and why. The model is not changed, and its later changes do not show.

    Args:
        model: a network of `build_model` or `load_checkpoint`, or another with the published networks' names and
            structure, also after `replace_modules`. It takes float RGB 0..255 [N, 3, H, W] and normalises it.
        device: where it will run; the model's by default.
        dtype: of its maps: torch.float32, torch.bfloat16, or on a GPU torch.float16; the model's by default.
        graphs: whether inferences on a GPU are captured as CUDA graphs, one for each input size: True, False, or "auto"
            (wherever there is a GPU).
        measure: whether ways to run a step that were not timed on this machine before are timed at the first image of
            a size, 0.4 to 1.5 s on 2 cores at 480×360; without it, stated rules decide.

    Returns:
        A frozen module: `forward`, `logits`, `labels`, `segment` and `segment_batches`, see OptimizedNetwork.

    Raises:
        OptimizeError: a ValueError: a network that is not known, or that computes something else than its names promise:
        both run on small images in fp32, and their logits must agree within 1e-4 of the largest. TypeError, ValueError:
        other arguments.
    """
    if torch.__version__ < "2.1":  # compared as versions, not as strings
        raise RuntimeError(f"swiftnet_ext.optimize needs PyTorch 2.1 or later, this is {torch.__version__}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model: expected an nn.Module, got {type(model).__name__}; pass a network")
    if isinstance(model, OptimizedNetwork):
        raise OptimizeError("optimize: model: it is optimised already; pass the network it was made from")
    where, of_maps = _device_of(model, device), _dtype_of(model, dtype)
    if where.type == "cpu" and of_maps == torch.float16:
        raise ValueError(
            "optimize: dtype: a CPU has no fast float16, got torch.float16; pass torch.bfloat16 or float32"
        )
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"optimize: device: expected a CPU or a CUDA device, got {where}")
    if graphs not in ("auto", True, False) or not isinstance(graphs, (str, bool)):
        raise ValueError(f"optimize: graphs: expected 'auto', True or False, got {graphs!r}")
    if not isinstance(measure, bool):
        raise ValueError(f"optimize: measure: expected True or False, got {measure!r}")
    if graphs is True and where.type != "cuda":
        raise ValueError(f"optimize: graphs: {where} has no CUDA graphs; pass 'auto' or False")
    with torch.inference_mode(False), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        plan = _verified_plan(model)
    with torch.inference_mode(False):
        return OptimizedNetwork(plan, where, of_maps, bool(graphs), measure)


def _device_of(model: nn.Module, device: Any) -> torch.device:
    if device is None:
        return next((p.device for p in model.parameters()), torch.device("cpu"))
    found = torch.device(device)
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", torch.cuda.current_device())
    return found


def _dtype_of(model: nn.Module, dtype: Any) -> torch.dtype:
    found = next((p.dtype for p in model.parameters()), torch.float32) if dtype is None else dtype
    if found not in DTYPES:
        named = ", ".join(map(str, DTYPES))
        raise ValueError(f"optimize: dtype: expected one of {named}, got {found!r}; pass one of these")
    return found


def _verified_plan(model: nn.Module) -> Plan:
    """The plan that gives what the model gives; of several variants the one that does."""
    found = recognise(model)
    trials = expected_logits(model)
    reasons = []
    for network in variants(model, found):
        plan = fold(network)
        run = TorchRun(plan, torch.device("cpu"), torch.float32, kernels=False, onednn=False)
        for passed, (images, expected) in enumerate(trials):
            with torch.no_grad(), reference_in_this_thread():
                relative, differs = difference(images, run.logits(images), expected)
            if differs:
                reasons.append(((-passed, relative), network, differs))
                break
        else:
            return plan
    _, network, differs = min(reasons, key=lambda reason: reason[0])
    raise OptimizeError(
        f"optimize: model ({type(model).__name__}): it computes something else than {network!r} with its weights: "
        f"{differs}; expected at most {TOLERANCE:g}. It must take RGB 0..255 and normalise it, and compute what its "
        "state dict's names promise"
    )
