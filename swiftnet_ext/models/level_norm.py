"""Batch norms of the pyramid's second generation: convolutions are shared by its levels, batch norms are not."""

from typing import Any

from torch import nn


def batch_norm(channels: int, levels: int) -> nn.Module:
    """One batch norm (levels 0), or one for each level; their keys are `{level}.weight` …, as published."""
    if levels == 0:
        return nn.BatchNorm2d(channels)
    return nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(levels)])


def norm_at(norm: Any, level: int) -> Any:
    return norm[level] if isinstance(norm, nn.ModuleList) else norm
