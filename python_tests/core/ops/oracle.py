"""The operators' formulas in float64, written apart from swiftnet_ext.ops.reference: resizing and pooling are matrices.

Each oracle returns (value, magnitude): magnitude is the same formula over absolute values, the sum that rounding errors
are relative to.
"""

from functools import lru_cache

import numpy as np
import torch

# half the distance from 1 to the next number, and half the smallest subnormal
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
TINY = {torch.float32: 2.0**-150, torch.float16: 2.0**-25, torch.bfloat16: 2.0**-134}
# Adding products, tensor cores may cut what they add to 24 bits of the largest among 17: in each, 2^-23 of the sum of
# magnitudes, where a rounded addition errs by 2^-24. That is once for 16 products, so 17/16 · 2^-23 for each.
MMA_UNIT = 17 / 16 * 2.0**-23


@lru_cache(maxsize=None)
def bilinear_matrix(out, size):
    m = np.zeros((out, size))
    for i in range(out):
        if out == size:
            m[i, i] = 1.0
            continue
        src = max((i + 0.5) * size / out - 0.5, 0.0)
        lower = min(int(src), size - 1)
        m[i, lower] += 1 - (src - lower)
        m[i, min(lower + 1, size - 1)] += src - lower
    return torch.from_numpy(m)


@lru_cache(maxsize=None)
def nearest_matrix(out, size):
    m = np.zeros((out, size))
    ratio = np.float32(size) / np.float32(out)  # the index is fp32 arithmetic in PyTorch, whatever the map's dtype
    for i in range(out):
        m[i, i if out == size else min(int(np.floor(np.float32(i) * ratio)), size - 1)] = 1.0
    return torch.from_numpy(m)


@lru_cache(maxsize=None)
def pooling_matrix(cells, size):
    m = np.zeros((cells, size))
    for i in range(cells):
        begin, end = i * size // cells, -(-(i + 1) * size // cells)
        m[i, begin:end] = 1.0 / (end - begin)
    return torch.from_numpy(m)


def apply(rows, columns, x):
    return torch.einsum("ph,nchw,qw->ncpq", rows, x, columns)


def resize(x, size, mode):
    matrix = bilinear_matrix if mode == "bilinear" else nearest_matrix
    return apply(matrix(size[0], x.shape[2]), matrix(size[1], x.shape[3]), x)


def channels(v):
    return v.view(1, -1, 1, 1)


def activate(x, magnitude, scale, shift):
    """relu(scale·x + shift) and the magnitude of its terms; absent parameters are 1 and 0."""
    scale = torch.ones(x.shape[1], dtype=x.dtype) if scale is None else scale
    shift = torch.zeros(x.shape[1], dtype=x.dtype) if shift is None else shift
    y = (channels(scale) * x + channels(shift)).clamp(min=0)
    return y, channels(scale.abs()) * magnitude + channels(shift.abs())


def conv(x, weight):
    """Cross-correlation with zero padding that keeps the size, tap by tap."""
    k = weight.shape[2] // 2
    padded = torch.nn.functional.pad(x, (k, k, k, k))
    y = 0
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            window = padded[:, :, r : r + x.shape[2], s : s + x.shape[3]]
            y = y + torch.einsum("nchw,kc->nkhw", window, weight[:, :, r, s])
    return y


def polynomial(roots):
    """The coefficients of Π (x - root), the lowest power first."""
    return np.polynomial.polynomial.polyfromroots(roots)


@lru_cache(maxsize=None)
def winograd_matrices():
    """(|B|ᵀ, |G|, |A|ᵀ) of F(4×4, 3×3) by the points 0, ±3/4, ±3/2 and ∞: each row of Bᵀ is Π over the other points q of
    (x - q), of G (1, p, p²) / Π (p - q), of A the powers of p."""
    points = [0, 0.75, -0.75, 1.5, -1.5]
    A = np.array([[p**o for p in points] + [float(o == 3)] for o in range(4)])
    B, G = np.zeros((6, 6)), np.zeros((6, 3))
    for i, p in enumerate(points):
        others = [q for q in points if q != p]
        B[i, :5] = polynomial(others)
        G[i] = np.array([1, p, p * p]) / np.prod([p - q for q in others])
    B[5], G[5, 2] = polynomial(points), 1
    return [torch.from_numpy(np.abs(m)) for m in (B, G, A)]


def winograd_magnitude(magnitude, weight, outputs=2):
    """What F(2×2, 3×3) or F(4×4, 3×3) adds up in absolute values: |A|ᵀ (Σ_c (|G| |g| |G|ᵀ) ∘ (|B|ᵀ |d| |B|)) |A|."""
    B = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.float64)  # |B|ᵀ
    G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    A = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]], dtype=torch.float64)  # |A|ᵀ
    if outputs == 4:
        B, G, A = winograd_matrices()
    height, width = magnitude.shape[2:]
    padded = torch.nn.functional.pad(magnitude, (1, 1 + -width % outputs, 1, 1 + -height % outputs))
    windows = padded.unfold(2, outputs + 2, outputs).unfold(3, outputs + 2, outputs)  # [N, C, H/2, W/2, 4, 4]
    inputs = torch.einsum("ip,nctupq,jq->nctuij", B, windows, B)
    weights = torch.einsum("ip,kcpq,jq->kcij", G, weight.abs(), G)
    sums = torch.einsum("kcij,nctuij->nktuij", weights, inputs)
    tiles = torch.einsum("ai,nktuij,bj->nktaub", A, sums, A)  # [N, K, H/2, 2, W/2, 2]
    return tiles.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def linear(x, magnitude, weight, bias, algorithm="direct"):
    """Convolution with bias, and the magnitude of what an algorithm adds up for it."""
    y = conv(x, weight)
    if algorithm == "direct":
        m = conv(magnitude, weight.abs())
    else:
        m = winograd_magnitude(magnitude, weight, 4 if algorithm == "winograd_4x4" else 2)
    return (y, m) if bias is None else (y + channels(bias), m + channels(bias.abs()))


def blend(x, skip, scale, shift, mode):
    """relu(scale·(up(x) + skip) + shift) and its magnitude."""
    size = skip.shape[2:]
    total, magnitude = resize(x, size, mode) + skip, resize(x.abs(), size, mode) + skip.abs()
    return activate(total, magnitude, scale, shift)


def upsample_add_conv3x3(x, skip, weight, bias, scale, shift, mode, algorithm):
    return linear(*blend(x, skip, scale, shift, mode), weight=weight, bias=bias, algorithm=algorithm)


def conv3x3(x, weight, bias, residual, relu, algorithm):
    y, m = linear(x, x.abs(), weight, bias, algorithm)
    if residual is not None:
        y, m = y + residual, m + residual.abs()
    return (y.clamp(min=0), m) if relu else (y, m)


def conv3x3_head(x, weight, head_weight, bias, head_bias, scale, shift, algorithm):
    hidden = activate(*linear(x, x.abs(), weight, bias, algorithm), scale=scale, shift=shift)
    return linear(*hidden, weight=head_weight, bias=head_bias)


def lateral_add(tap, weight, x, bias, scale, shift, relu, mode, out_scale=None, out_shift=None):
    y, m = linear(*activate(tap, tap.abs(), scale, shift), weight=weight, bias=bias)
    if x is not None:
        y, m = y + resize(x, tap.shape[2:], mode), m + resize(x.abs(), tap.shape[2:], mode)
    if out_scale is not None:
        y, m = channels(out_scale) * y, channels(out_scale.abs()) * m
    if out_shift is not None:
        y, m = y + channels(out_shift), m + channels(out_shift.abs())
    return (y.clamp(min=0), m) if relu else (y, m)


def spatial_pyramid_pool(
    x, level_weight, fuse_weight, fuse_bias, grids, level_scale, level_shift, fuse_scale, fuse_shift, mode
):
    size, values, magnitudes = x.shape[2:], [x], [x.abs()]
    for i, (rows, columns) in enumerate(grids):
        pool = pooling_matrix(rows, size[0]), pooling_matrix(columns, size[1])
        scale = None if level_scale is None else level_scale[i]
        shift = None if level_shift is None else level_shift[i]
        activated = activate(apply(*pool, x=x), apply(*pool, x=x.abs()), scale, shift)
        y, m = linear(*activated, weight=level_weight[i][:, :, None, None], bias=None)
        values.append(resize(y, size, mode))
        magnitudes.append(resize(m, size, mode))
    activated = activate(torch.cat(values, 1), torch.cat(magnitudes, 1), fuse_scale, fuse_shift)
    return linear(*activated, weight=fuse_weight[:, :, None, None], bias=fuse_bias)


def softmax(x):
    e = torch.exp(x - x.max(1, keepdim=True)[0])
    return e / e.sum(1, keepdim=True)


def multiscale_mean(logits, size, order):
    """The mean probabilities; a softmax's errors are relative to 1 and to the logits it subtracts."""
    if order == "softmax_then_resize":
        parts = [resize(softmax(m), size, "bilinear") for m in logits]
    else:
        parts = [softmax(resize(m, size, "bilinear")) for m in logits]
    largest = max(float(m.abs().max()) if m.numel() else 0.0 for m in logits)
    mean = sum(parts) / len(parts)
    return mean, torch.full_like(mean, 1 + 2 * largest)
