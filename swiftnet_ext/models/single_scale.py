"""Single-scale SwiftNet: encoder, spatial pyramid pooling, three upsampling steps, logits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..nn import BNReLUConv, SpatialPyramidPooling, UpsampleBlend
from ..nn.layers import check_images
from ..ops import checks, reference
from .mobilenet_v2 import MobileNetV2
from .resnet import ResNet

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)
HEADS = ("1x1", "3x3")


def _decoded(backbone: Any, images: Tensor) -> Tensor:
    """The decoder's last map [N, channels, H/4, W/4] of images [N, 3, H, W]."""
    mean, std = backbone.img_mean, backbone.img_std
    normalised = (
        (images.float() - mean.float()) / std.float() if images.dtype != torch.float64 else (images - mean) / std
    )
    taps = backbone.taps(normalised.to(mean.dtype))
    x = backbone.spp(taps[3])
    for upsample, tap in zip(backbone.upsample, reversed(taps[:3])):
        x = upsample(x, tap)
    return x


def _is_rgb(image: Any) -> bool:
    """Whether it is uint8 [H, W, 3] with at least one pixel, of NumPy or torch."""
    if not isinstance(image, (Tensor, np.ndarray)) or str(image.dtype) not in ("uint8", "torch.uint8"):
        return False
    return len(image.shape) == 3 and image.shape[2] == 3 and image.shape[0] > 0 and image.shape[1] > 0


class Logits(BNReLUConv):
    """The head. It carries the published name `logits`, and called with images it is the network up to there."""

    def __init__(self, backbone: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._backbone = (backbone,)  # in a tuple, so that it is not a child of this module as well

    def forward(self, images: Tensor, backbone: Any = None) -> Tensor:
        """Images [N, 3, H, W], float RGB 0..255, to logits [N, classes, H/4, W/4]."""
        check_images(images)
        return super().forward(_decoded(self._backbone[0] if backbone is None else backbone, images))


class SwiftNet(nn.Module):
    """Single-scale SwiftNet.

    Args:
        name: what `build_model` calls it.
        encoder: a ResNet or MobileNetV2.
        num_classes: of the logits.
        head: "1x1" (with bias) or "3x3" (without), as the published weights have it.
        mode: how maps are resized, "bilinear" or "nearest"; the logits are always resized bilinearly.
        channels: of the decoder.

    Call with images [N, 3, H, W], float RGB 0..255 of any size; gives logits [N, num_classes, H, W].
    `logits(images)` gives them at stride 4. The images are normalised inside, and not changed. Source: SwiftNet
    (CVPR 2019), section 3.
    """

    def __init__(
        self,
        name: str,
        encoder: Any,
        num_classes: int = 19,
        head: str = "1x1",
        mode: str = "bilinear",
        channels: int = 128,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                "num_classes: expected a positive integer, got {!r}; pass the classes' count".format(num_classes)
            )
        checks.choice("build_model", "head", head, HEADS)
        checks.choice("build_model", "mode", mode, checks.MODES)
        self.name, self.num_classes, self.head, self.mode = name, num_classes, head, mode
        tap_channels = encoder.tap_channels
        encoder.spp = SpatialPyramidPooling(tap_channels[3], channels, mode=mode)
        encoder.upsample = nn.ModuleList([UpsampleBlend(channels, c, mode=mode) for c in reversed(tap_channels[:3])])
        encoder.register_buffer("img_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        encoder.register_buffer("img_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.backbone = encoder
        kernel_size = 1 if head == "1x1" else 3
        self.logits = Logits(encoder, channels, num_classes, kernel_size, bias=head == "1x1")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "backbone" and "logits" in self._modules:
            self.logits._backbone = (value,)

    def forward(self, images: Tensor) -> Tensor:
        return reference.resize(self.logits(images, self.backbone), images.shape[2:], "bilinear")

    def segment(self, image: Any) -> Any:
        """Labels of one image.

        Args:
            image: uint8 RGB [H, W, 3], a NumPy array or a torch tensor on any device.

        Returns:
            uint8 [H, W], a NumPy array or a tensor on the image's device. Ties go to the lower class; where the logits
            are NaN the label is 255.

        Raises:
            ValueError: another shape or dtype. RuntimeError: the model is in train mode.
        """
        if not _is_rgb(image):
            described = isinstance(image, (Tensor, np.ndarray))
            got = "{} {}".format(image.dtype, list(image.shape)) if described else type(image).__name__
            raise ValueError(
                "image: expected uint8 RGB [H, W, 3] (NumPy or torch), got {}; convert it first".format(got)
            )
        if self.training:
            raise RuntimeError(
                "segment: the model is in train mode, where batch statistics change it; call model.eval()"
            )
        given = torch.from_numpy(np.require(image, requirements=["C", "W"])) if isinstance(image, np.ndarray) else image
        mean = self.backbone.img_mean
        with torch.no_grad():
            images = given.to(mean.device).permute(2, 0, 1)[None].float()
            logits = self.logits(images, self.backbone)
            size = given.shape[0], given.shape[1]
            labels = ops.multiscale_mean([logits], size, order="resize_then_softmax", reduce="argmax")[0]
        return labels.cpu().numpy() if isinstance(image, np.ndarray) else labels.to(given.device)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.parameters())
        return "SwiftNet({!r}, num_classes={}, head={!r}, mode={!r}): {:,} parameters".format(
            self.name, self.num_classes, self.head, self.mode, parameters
        )
