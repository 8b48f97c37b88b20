"""SwiftNet's networks, their table of names, and their checkpoints."""

from .build import MODELS, build_model
from .checkpoint import (
    CheckpointInfo,
    default_weights,
    inspect_checkpoint,
    load_checkpoint,
    load_imagenet_encoder,
    save_checkpoint,
)
from .swiftnet import SwiftNet

__all__ = [
    "MODELS",
    "CheckpointInfo",
    "SwiftNet",
    "build_model",
    "default_weights",
    "inspect_checkpoint",
    "load_checkpoint",
    "load_imagenet_encoder",
    "save_checkpoint",
]
