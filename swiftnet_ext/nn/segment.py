"""From images to labels: what networks, multi-scale inference and ensembles have in common."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def check_images(images: Any) -> None:
    """Images are a floating-point tensor [N, 3, H, W].

    Raises:
        ValueError: anything else.
    """
    tensor = isinstance(images, Tensor)
    if not tensor or images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = "{} {}".format(images.dtype, list(images.shape)) if tensor else type(images).__name__
        raise ValueError(
            "images: expected a floating-point tensor [N, 3, H, W] of RGB 0..255, got {}; "
            "a uint8 image [H, W, 3] goes to segment()".format(got)
        )


def _is_rgb(image: Any) -> bool:
    """Whether it is uint8 [H, W, 3] with at least one pixel, of NumPy or torch."""
    if not isinstance(image, (Tensor, np.ndarray)) or str(image.dtype) not in ("uint8", "torch.uint8"):
        return False
    return len(image.shape) == 3 and image.shape[2] == 3 and image.shape[0] > 0 and image.shape[1] > 0


def check_image(image: Any) -> None:
    """An image is uint8 RGB [H, W, 3], of NumPy or torch.

    Raises:
        ValueError: anything else.
    """
    if not _is_rgb(image):
        described = isinstance(image, (Tensor, np.ndarray))
        got = "{} {}".format(image.dtype, list(image.shape)) if described else type(image).__name__
        raise ValueError("image: expected uint8 RGB [H, W, 3] (NumPy or torch), got {}; convert it first".format(got))


def as_tensor(image: Any) -> Tensor:
    """An image of NumPy or torch as a tensor, of the same memory where that can be."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])) if isinstance(image, np.ndarray) else image


def _device_of(model: nn.Module) -> torch.device:
    return next(itertools.chain(model.parameters(), model.buffers())).device


class Segmenter(nn.Module):
    """A module with `labels(images)`, which gives it `segment(image)`."""

    def labels(self, images: Tensor) -> Tensor:
        """Labels [N, H, W] uint8 of images [N, 3, H, W], float RGB 0..255."""
        raise NotImplementedError

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
        check_image(image)
        if any(module.training for module in self.modules()):
            raise RuntimeError(
                "segment: the model is in train mode, where batch statistics change it; call model.eval()"
            )
        given = as_tensor(image)
        with torch.no_grad():
            labels = self.labels(given.to(_device_of(self)).permute(2, 0, 1)[None].float())[0]
        return labels.cpu().numpy() if isinstance(image, np.ndarray) else labels.to(given.device)
