"""Multi-scale inference and ensembles: the mean of several logit maps' class probabilities."""

from typing import Any, Iterable, List, Sequence

from torch import Tensor, nn

from .. import ops
from ..ops import reference
from ..ops.checks import ORDERS, choice
from .segment import Segmenter, check_images

SUPPLEMENT_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5)


class Ensemble(Segmenter):
    """The mean of several networks' class probabilities, each run on the image at one or several sizes.

    Only stride-4 logits are kept of each run; `ops.multiscale_mean` makes of them the result at the image's size.

    Args:
        models: each has `logits(images)` (e.g. a network of swiftnet_ext.models); they agree in their classes.
        factors: of the image's height and width; the scaled sizes are rounded, and at least 1.
        order: "softmax_then_resize" or "resize_then_softmax" (see ops.multiscale_mean).
        flip: run each size on the mirrored image too.

    Input: images [N, 3, H, W], float RGB 0..255. Output: probabilities [N, classes, H, W], or with reduce="argmax"
    labels [N, H, W] uint8. Source: SwiftNet's supplementary, ensembles.

    Raises:
        TypeError: models that are none. ValueError: factors, an order or classes that don't fit.
    """

    def __init__(
        self,
        models: Iterable[Any],
        factors: Sequence[float] = (1.0,),
        order: str = "softmax_then_resize",
        flip: bool = False,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        models = list(models)
        if not models or not all(isinstance(m, nn.Module) and callable(getattr(m, "logits", None)) for m in models):
            raise TypeError(
                "{}: model: expected one with a method logits(images); use swiftnet_ext.build_model".format(op)
            )
        counts = [getattr(m, "num_classes", None) for m in models]
        names = [list(m.classes) for m in models if getattr(m, "classes", None)]
        if len(set(counts)) > 1 or any(n != names[0] for n in names):
            got = counts if len(set(counts)) > 1 else names
            raise ValueError(
                "{}: models: expected the same classes of all, got {}; put together networks of one data set".format(
                    op, got
                )
            )
        if not factors or min(factors) <= 0:
            raise ValueError("{}: factors: expected positive numbers, got {!r}".format(op, factors))
        choice(op, "order", order, ORDERS)
        self.models = nn.ModuleList(models)
        self.factors, self.order, self.flip = tuple(factors), order, bool(flip)
        self.num_classes, self.classes = counts[0], names[0] if names else None

    def maps(self, images: Tensor) -> List[Tensor]:
        """The logits of every run, at stride 4 of its image; mirrored ones are mirrored back."""
        height, width = images.shape[2:]
        maps = []
        models = list(self.models)  # type: List[Any]
        for factor in self.factors:
            size = max(1, int(round(height * factor))), max(1, int(round(width * factor)))
            scaled = reference.resize(images, size, "bilinear")
            for model in models:
                maps.append(model.logits(scaled))
                if self.flip:
                    maps.append(model.logits(scaled.flip(3)).flip(3))
        return maps

    def forward(self, images: Tensor, reduce: str = "mean") -> Tensor:
        check_images(images)
        size = (images.shape[2], images.shape[3])
        return ops.multiscale_mean(self.maps(images), size, order=self.order, reduce=reduce)

    def labels(self, images: Tensor) -> Tensor:
        return self(images, reduce="argmax")

    def extra_repr(self) -> str:
        return "factors={}, order={!r}, flip={}".format(self.factors, self.order, self.flip)


class MultiScale(Ensemble):
    """Multi-scale inference: one network on the image at several sizes; see Ensemble.

    Args:
        model: has `logits(images)`.
        factors: the supplement's by default.
        order: the supplement's by default; the authors' code has "resize_then_softmax" (and factors 0.5, 0.75, 1, 1.5, 2).
        flip: run each size on the mirrored image too.

    Source: SwiftNet's supplementary, multi-scale inference.
    """

    def __init__(
        self,
        model: Any,
        factors: Sequence[float] = SUPPLEMENT_FACTORS,
        order: str = "softmax_then_resize",
        flip: bool = False,
    ) -> None:
        super().__init__([model], factors, order, flip)
