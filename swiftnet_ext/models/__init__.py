"""SwiftNet's networks, their table of names, and their checkpoints."""

from .build import MODELS, build_model
from .checkpoint import (
    CheckpointInfo,
    inspect_checkpoint,
    load_checkpoint,
    load_imagenet_encoder,
    save_checkpoint,
    shipped_weights,
)
from .swiftnet import SwiftNet

__all__ = [
    "MODELS",
    "CheckpointInfo",
    "SwiftNet",
    "build_model",
    "shipped_weights",
    "inspect_checkpoint",
    "load_checkpoint",
    "load_imagenet_encoder",
    "save_checkpoint",
]
