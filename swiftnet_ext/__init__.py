"""Fused CUDA operators, networks and tools for SwiftNet, the real-time road-segmentation network."""

__version__ = "0.1.0"

import sys as _sys

from . import nn, ops
from .models import build_model, inspect_checkpoint, load_checkpoint, load_imagenet_encoder, save_checkpoint
from .ops import BackendError, use_backend
from .replace import replace_modules, restore_modules

if _sys.version_info >= (3, 9):
    from .optimize import optimize
else:

    def optimize(model, *, device=None, dtype=None, graphs="auto", measure=True):  # type: ignore
        """Not here: it needs Python 3.9 and PyTorch 2.1."""
        version = "{}.{}".format(*_sys.version_info[:2])
        raise RuntimeError("swiftnet_ext.optimize needs Python 3.9 and PyTorch 2.1, this is Python " + version)


__all__ = [
    "BackendError",
    "build_model",
    "inspect_checkpoint",
    "load_checkpoint",
    "load_imagenet_encoder",
    "nn",
    "ops",
    "optimize",
    "replace_modules",
    "restore_modules",
    "save_checkpoint",
    "use_backend",
]
