"""A network of `build_model` as a plan: exact algebra in float64.

In eval mode a batch norm is scale·y + shift per channel. After a convolution it is folded into its weight and bias. The
blend's comes after a sum, scale·(resize(x) + lateral) + shift: resizing keeps constants and is linear, so the scale goes
into the last convolution that makes x and into the lateral, the shift into the lateral's bias; the scale may be zero or
negative. The head's goes into the last blend. Of the image's normalisation, the mean is subtracted when the image becomes a
map (zero padding is then the mean's colour, as before) and 1/std goes into the first convolution. What a ReLU stands
before stays: the taps' batch norms become a second output of the convolution that makes the tap.
"""

import copy
from typing import Any, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from ..models import SwiftNet
from ..models.level_norm import norm_at
from ..models.mobilenet_v2 import TAPS, MobileNetV2
from ..models.pyramid import antialiased_bicubic
from ..nn import BNReLUConv, SpatialPyramidPooling
from ..nn.fused import affine_of, levels_misfit, norm_of
from ..nn.layers import SeparableConv
from .plan import IMAGE, LOGITS, Convolution, MaxPool, Plan, PyramidPool, Resize, Step, Tap
from .recognise import OptimizeError

Affine = Tuple[Optional[Tensor], Optional[Tensor]]
UNCHANGED: Affine = None, None


def fold(model: SwiftNet) -> Plan:
    """The plan of a network; nothing of it is shared with the network."""
    with torch.no_grad():
        double = copy.deepcopy(model).cpu().double().eval()
        return _Folding(double).plan(repr(model), model.classes)


def _float(parameter: Optional[Tensor]) -> Optional[Tensor]:
    return None if parameter is None else parameter.detach().float().contiguous()


class _Folding:
    def __init__(self, model: Any) -> None:
        self.model, self.backbone = model, model.backbone
        self.steps: List[Step] = []
        self.activated: Set[str] = set()  # values in which nothing is negative
        self.paths = {module: path for path, module in model.named_modules()}

    def expect(self, fits: bool, module: Any, what: str) -> None:
        if not fits:
            line = repr(module) if "\n" not in repr(module) else type(module).__name__
            raise OptimizeError(f"optimize: model: {self.paths.get(module)} is {line}; expected {what}")

    def affine(self, norm: Any) -> Affine:
        statistics = [getattr(norm, name, None) for name in ("running_mean", "running_var")]
        keeps = norm is None or all(isinstance(value, Tensor) for value in statistics)
        self.expect(keeps, norm, "BatchNorm2d with running statistics")
        return affine_of(norm)

    def plan(self, network: str, classes: Optional[List[str]]) -> Plan:
        image = IMAGE
        if self.backbone.half_resolution:
            image = self.resize("half resolution", image, 2, "bilinear")
        decode = self.pyramid if hasattr(self.backbone, "upsample_blends") else self.single_scale
        last = decode(image)
        self.conv("logits", self.model.logits.conv, last, LOGITS)
        mean = tuple(self.backbone.img_mean.flatten().tolist())
        return Plan(network, self.model.num_classes, classes and list(classes), mean, self.steps)

    def conv(
        self,
        name: str,
        module: Any,
        x: str,
        output: Optional[str] = "",
        *affines: Tuple[str, Affine],
        activation: str = "none",
        tap: Optional[Tap] = None,
        input_scale: Optional[Tensor] = None,
        folded: Sequence[str] = (),
        **rest: Any,
    ) -> str:
        """Adds a convolution with affines folded into it; returns its output, or its tap where that is all."""
        output = name if output == "" else output
        self.expect_conv(module)
        weight, bias = module.weight, module.bias
        notes = list(folded)
        if input_scale is not None:
            weight = weight * input_scale.view(1, -1, 1, 1)
        alone = not rest.get("residual") and not rest.get("up")
        if output is None and tap is not None and (alone or (tap.scale is None and tap.shift is None)):
            affines += (("the tap's batch norm", (tap.scale, tap.shift)),)  # there is but one output
            output, activation, tap = tap.output, "relu" if tap.relu else "none", None
        for note, (scale, shift) in affines:
            if scale is not None:
                weight = weight * scale.view(-1, 1, 1, 1)
                bias = None if bias is None else bias * scale
            if shift is not None:
                bias = shift if bias is None else bias + shift
            if scale is not None or shift is not None:
                notes.append(note)
        if tap is not None:
            tap = Tap(tap.output, _float(tap.scale), _float(tap.shift), tap.relu)
            self.activated |= {tap.output} if tap.relu else set()
        if output is not None and activation != "none":
            self.activated.add(output)
        dense = _float(weight)
        assert dense is not None
        step = Convolution(
            name, output, x, dense, _float(bias), module.stride[0], module.padding[0], module.groups, activation,
            tap=tap, activated=x in self.activated, folded=tuple(notes), **rest,
        )  # fmt: skip
        self.steps.append(step)
        return step.writes[0]

    def expect_conv(self, module: Any) -> None:
        fits = isinstance(module, nn.Conv2d) and module.dilation == (1, 1) and module.padding_mode == "zeros"
        square = fits and all(len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.padding))
        self.expect(square, module, "Conv2d, square, of dilation 1, with a number of zeros around the map")

    def expect_pool(self, module: Any) -> None:
        fits = isinstance(module, nn.MaxPool2d) and not module.ceil_mode and not module.return_indices
        for name, value in (("kernel_size", 3), ("stride", 2), ("padding", 1), ("dilation", 1)):
            fits = fits and getattr(module, name) in (value, (value, value))
        self.expect(fits, module, "MaxPool2d(3, stride=2, padding=1)")

    def resize(self, name: str, x: str, divisor: int, kind: str) -> str:
        self.steps.append(Resize(name, name, x, divisor, kind))
        return name

    def first_conv(self, name: str, module: nn.Conv2d, x: str, norm: Any, activation: str) -> str:
        return self.conv(
            name, module, x, "", ("batch norm", self.affine(norm)), activation=activation,
            input_scale=1 / self.backbone.img_std.flatten(), folded=("the image's 1/std",),
        )  # fmt: skip

    def taps(self, image: str, level: int, wanted: Sequence[Any]) -> List[str]:
        """The encoder's four taps, each as its unit in `wanted` takes it: activated, or as it is where that is None."""
        suffix = f" level {level}" if level else ""
        taps: List[Tap] = []
        for i, unit in enumerate(wanted):
            scale, shift = UNCHANGED if unit is None else self.affine(norm_of(unit))
            taps.append(Tap(f"tap {i}{suffix}", scale, shift, unit is not None))
        if isinstance(self.backbone, MobileNetV2):
            return self._mobilenet(image, level, suffix, taps)
        return self._resnet(image, level, suffix, taps)

    def _resnet(self, image: str, level: int, suffix: str, taps: List[Tap]) -> List[str]:
        encoder = self.backbone
        x = self.first_conv("conv1" + suffix, encoder.conv1, image, norm_at(encoder.bn1, level), "relu")
        self.expect_pool(encoder.maxpool)
        pooled = "maxpool" + suffix
        self.steps.append(MaxPool(pooled, pooled, x))
        self.activated.add(pooled)
        x = pooled
        for i, tap in enumerate(taps):
            blocks = list(getattr(encoder, f"layer{i + 1}"))
            for j, block in enumerate(blocks):
                name, last = f"layer{i + 1}.{j}.", j == len(blocks) - 1
                shortcut = x
                if block.downsample is not None:
                    conv, norm = block.downsample
                    shortcut = self.conv(name + "downsample" + suffix, conv, x, "", ("batch norm", self.affine(norm)))
                first, second = (self.affine(norm_at(norm, level)) for norm in (block.bn1, block.bn2))
                y = self.conv(name + "conv1" + suffix, block.conv1, x, "", ("batch norm", first), activation="relu")
                second_name = name + "conv2" + suffix
                x = self.conv(
                    second_name, block.conv2, y, None if last and i == len(taps) - 1 else second_name,
                    ("batch norm", second), activation="relu", residual=shortcut, tap=tap if last else None,
                )  # fmt: skip
        return [tap.output for tap in taps]

    def _mobilenet(self, image: str, level: int, suffix: str, taps: List[Tap]) -> List[str]:
        conv, norm, _ = self.backbone.features[0]
        x = self.first_conv("features.0" + suffix, conv, image, norm_at(norm, level), "relu6")
        outputs: List[str] = []
        for i, block in enumerate(self.backbone.features):
            if i == 0:
                continue
            *hidden, conv, norm = block.conv
            y = x
            for j, layer in enumerate(hidden):
                affine = self.affine(norm_at(layer[1], level))
                name = f"features.{i}.conv.{j}{suffix}"
                y = self.conv(name, layer[0], y, "", ("batch norm", affine), activation="relu6")
            name = f"features.{i}.conv.{len(hidden)}{suffix}"
            tap = taps[TAPS.index(i)] if i in TAPS else None
            plain = tap is not None and not tap.relu  # then the tap is the block's own output
            x = self.conv(
                name, conv, y, None if i == TAPS[-1] and not plain else name,
                ("batch norm", self.affine(norm_at(norm, level))), residual=x if block.shortcut else None,
                tap=None if plain else tap,
            )  # fmt: skip
            if tap is not None:
                outputs.append(x if plain else tap.output)
        return outputs

    def single_scale(self, image: str) -> str:
        backbone = self.backbone
        blends = list(backbone.upsample)
        pooling = backbone.spp if isinstance(backbone.spp, SpatialPyramidPooling) else None
        first = backbone.spp if pooling is None else pooling.spp[0]
        *skips, last = self.taps(image, 0, [blend.bottleneck for blend in reversed(blends)] + [first])
        scale = "the blend's batch norm's scale", (self.affine(norm_of(blends[0].blend_conv))[0], None)
        if pooling is None:
            x = self.conv("spp", first.conv, last, "", scale)
        else:
            x = self.pyramid_pool(pooling, self.conv("spp.spp_bn", first.conv, last), scale[1][0])
        for i, (blend, tap) in enumerate(zip(blends, reversed(skips))):
            name = f"upsample.{i}."
            affine = "the blend's batch norm", self.affine(norm_of(blend.blend_conv))
            x = self.conv(
                name + "bottleneck", blend.bottleneck.conv, tap, "", affine, activation="relu", up=x, mode=blend.mode
            )
            x = self.blend(name + "blend_conv", blend.blend_conv, x, blends[i + 1 :])
        return x

    def blend(self, name: str, unit: Any, x: str, following: Sequence[Any]) -> str:
        """The convolution of a blend, with what the next blend or the head folds into it."""
        if following:
            scale = self.affine(norm_of(following[0].blend_conv))[0]
            after: Tuple[str, Affine] = ("the next blend's batch norm's scale", (scale, None))
            activation = "none"
        else:
            after, activation = ("the head's batch norm", self.affine(norm_of(self.model.logits))), "relu"
        conv = unit.conv
        if isinstance(conv, nn.Conv2d):
            return self.conv(name, conv, x, "", after, activation=activation)
        if isinstance(conv, SeparableConv):
            x = self.conv(name + ".conv1", conv.conv1, x)
            return self.conv(name + ".pointwise", conv.pointwise, x, "", after, activation=activation)
        self.expect(isinstance(conv, nn.Sequential) and len(conv) == 4, conv, "a convolution of UpsampleBlend's")
        expand, depthwise, project, norm = conv
        for i, (layer, following_unit) in enumerate(((expand, depthwise), (depthwise.conv, project))):
            affine = "batch norm", self.affine(norm_of(following_unit))
            x = self.conv(f"{name}.{i}", layer, x, "", affine, activation="relu")
        affine = "batch norm", self.affine(norm)
        return self.conv(name + ".2", project.conv, x, "", affine, after, activation=activation)

    def pyramid_pool(self, pooling: Any, x: str, scale: Optional[Tensor]) -> str:
        levels: List[Any] = list(pooling.spp)[1:-1]
        fuse = pooling.spp[-1]
        for unit in [*levels, fuse]:
            self.expect_conv(unit.conv)
        misfit = levels_misfit(levels)
        self.expect(not misfit, pooling, f"levels alike, but {misfit}")
        affines = [self.affine(norm_of(unit)) for unit in levels]
        weight, bias = fuse.conv.weight[:, :, 0, 0], fuse.conv.bias  # [K, C + L·D]
        if scale is not None:
            weight, bias = weight * scale[:, None], None if bias is None else bias * scale

        def stacked(parameters: List[Any]) -> Any:
            return None if parameters[0] is None else _float(torch.stack(parameters))

        name, (fuse_scale, fuse_shift) = "spp.pool", self.affine(norm_of(fuse))
        self.steps.append(
            PyramidPool(
                name,
                name,
                x,
                stacked([unit.conv.weight[:, :, 0, 0] for unit in levels]),
                stacked([weight])[0],
                _float(bias),
                stacked([a for a, _ in affines]),
                stacked([b for _, b in affines]),
                _float(fuse_scale),
                _float(fuse_shift),
                tuple(pooling.grids),
                pooling.square_grid,
                pooling.mode,
                folded=() if scale is None else ("the blend's batch norm's scale",),
            )  # fmt: skip
        )
        return name

    def pyramid(self, image: str) -> str:
        """Laterals of one stride are summed as residuals; the last of them takes the resized coarser map as well, so it
        runs where the decoder does."""
        backbone = self.backbone
        laterals, blends = list(reversed(backbone.upsample_bottlenecks)), list(backbone.upsample_blends)
        units = [unit if isinstance(unit, BNReLUConv) else None for unit in laterals]
        kind = "antialiased_bicubic" if backbone.halve is antialiased_bicubic else "bicubic"
        count = len(blends) + 1  # of strides
        waiting: List[Any] = [None] * count  # (name, convolution, tap) of each stride's last lateral so far
        sums: List[Optional[str]] = [None] * count
        for level in range(len(blends) - 2):
            x = image if level == 0 else self.resize(f"level {level}", image, 2**level, kind)
            for i, tap in enumerate(self.taps(x, level, units)):
                at = level + i
                if waiting[at] is not None:
                    sums[at] = self.lateral(blends, at, waiting[at], residual=sums[at])
                conv = laterals[i] if units[i] is None else laterals[i].conv
                waiting[at] = f"upsample_bottlenecks.{len(units) - 1 - i}" + f" level {level}" * bool(level), conv, tap
        x = self.lateral(blends, count - 1, waiting[-1])
        for at in reversed(range(count - 1)):
            i = count - 2 - at
            x = self.lateral(blends, at, waiting[at], residual=sums[at], up=x, mode=blends[i].mode, activation="relu")
            x = self.blend(f"upsample_blends.{i}.blend_conv", blends[i].blend_conv, x, blends[i + 1 :])
        return x

    def lateral(self, blends: Sequence[Any], at: int, waiting: Any, **rest: Any) -> str:
        """One lateral of the stride 4·2^at, scaled as the blend that takes it asks; the last gets the shift too."""
        name, conv, tap = waiting
        blend = blends[max(0, len(blends) - 1 - at)]
        scale, shift = self.affine(norm_of(blend.blend_conv))
        affine = (scale, shift) if rest.get("up") else (scale, None)
        return self.conv(name, conv, tap, "", ("the blend's batch norm", affine), **rest)
