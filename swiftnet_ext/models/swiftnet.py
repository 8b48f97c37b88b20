"""SwiftNet: a backbone (encoder and decoder), a head, and what leads from images to logits and labels."""

from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor

from .. import ops
from ..nn import BNReLUConv, Segmenter
from ..nn.segment import check_images
from ..ops import reference

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)
HEADS = ("1x1", "3x3")


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    wide = images if images.dtype == torch.float64 else images.float()
    return ((wide - mean.to(wide.dtype)) / std.to(wide.dtype)).to(mean.dtype)


class Logits(BNReLUConv):
    """The head. It carries the published name `logits`, and called with images it is the network up to there."""

    def __init__(self, backbone: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._backbone = (backbone,)  # in a tuple, so that it is not a child of this module as well

    def forward(self, images: Tensor, backbone: Any = None) -> Tensor:
        """Images [N, 3, H, W], float RGB 0..255, to logits [N, classes, ⌈H/4⌉, ⌈W/4⌉]."""
        check_images(images)
        backbone = self._backbone[0] if backbone is None else backbone
        if backbone.half_resolution:
            height, width = images.shape[2:]
            images = reference.resize(images, ((height + 1) // 2, (width + 1) // 2), "bilinear")
        normalised = _normalised(images, backbone.img_mean, backbone.img_std)
        return super().forward(backbone.decode(backbone, normalised))


class SwiftNet(Segmenter):
    """A network of `build_model`.

    Args:
        name: in the table of `build_model`.
        options: all options of `build_model`.
        backbone: an encoder with a decoder's modules attached to it.
        decode: runs it, (backbone, normalised images) → map [N, channels, ⌈H/4⌉, ⌈W/4⌉].
        num_classes: of the logits.

    Call with images [N, 3, H, W], float RGB 0..255 of any size; gives logits [N, num_classes, H, W].
    `logits(images)` gives them at stride 4 of the image the network runs on. Images are normalised inside, and not
    changed. Source: SwiftNet (CVPR 2019), section 3.
    """

    def __init__(
        self,
        name: str,
        options: Dict[str, Any],
        backbone: Any,
        decode: Callable[[Any, Tensor], Tensor],
        num_classes: int,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                "num_classes: expected a positive integer, got {!r}; pass the classes' count".format(num_classes)
            )
        self.name, self.options, self.num_classes = name, dict(options), num_classes
        self.classes = None  # type: Optional[List[str]]  # their names, where a checkpoint says them
        self.loaded_from = ""  # the checkpoint, and what it was found to be
        backbone.register_buffer("img_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        backbone.register_buffer("img_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        backbone.decode, backbone.half_resolution = decode, options["half_resolution"]
        self.backbone = backbone
        small = options["head"] == "1x1"
        self.logits = Logits(backbone, options["channels"], num_classes, 1 if small else 3, bias=small)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # a replica of DataParallel has the original's head until it gets its own, after its backbone
        replica = self.__dict__.get("_is_replica", False)
        if name == ("logits" if replica else "backbone") and "logits" in self._modules:
            self.logits._backbone = (self.backbone,)

    def forward(self, images: Tensor) -> Tensor:
        return reference.resize(self.logits(images, self.backbone), images.shape[2:], "bilinear")

    def labels(self, images: Tensor) -> Tensor:
        """Labels [N, H, W] uint8 of images [N, 3, H, W], float RGB 0..255: the largest of the resized logits."""
        maps, size = [self.logits(images, self.backbone)], (images.shape[2], images.shape[3])
        return ops.multiscale_mean(maps, size, order="resize_then_softmax", reduce="argmax")

    def __repr__(self) -> str:
        options = ["{}={!r}".format(k, v) for k, v in [("num_classes", self.num_classes)] + list(self.options.items())]
        parameters = sum(p.numel() for p in self.parameters())
        return "SwiftNet({!r}, {}): {:,} parameters".format(self.name, ", ".join(options), parameters)
