"""Fused CUDA operators, networks and tools for SwiftNet, the real-time road-segmentation network."""

__version__ = "0.1.0"

from . import nn, ops
from .models import build_model, inspect_checkpoint, load_checkpoint, load_imagenet_encoder, save_checkpoint
from .ops import BackendError, use_backend
from .replace import replace_modules, restore_modules

__all__ = [
    "BackendError",
    "build_model",
    "inspect_checkpoint",
    "load_checkpoint",
    "load_imagenet_encoder",
    "nn",
    "ops",
    "replace_modules",
    "restore_modules",
    "save_checkpoint",
    "use_backend",
]
