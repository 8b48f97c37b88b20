"""Losses against loops."""

import math

import numpy as np
import pytest
import torch

from swiftnet_ext.engine.losses import boundary_focal, boundary_weights, class_weights, cross_entropy


def case(seed=0, classes=5, shape=(2, 7, 9)):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(shape[0], classes) + shape[1:]), dtype=torch.float32)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.2] = 255
    weights = torch.tensor(rng.uniform(0.5, 2, classes), dtype=torch.float32)
    return logits, torch.from_numpy(labels), weights


def naive(logits, labels, class_weight, pixel_weight):
    """(sum of weighted -log p, sum of class weights, labelled pixels), pixel by pixel in float64."""
    total = mass = count = 0.0
    for n, i, j in np.ndindex(*labels.shape):
        label = int(labels[n, i, j])
        if label == 255:
            continue
        z = logits[n, :, i, j].double().tolist()
        log_p = z[label] - math.log(sum(math.exp(v) for v in z))
        total -= float(class_weight[label]) * pixel_weight(n, i, j, math.exp(log_p)) * log_p
        mass += float(class_weight[label])
        count += 1
    return total, mass, count


def test_cross_entropy():
    logits, labels, weights = case()
    total, _, count = naive(logits, labels, torch.ones(5), lambda *_: 1)
    assert cross_entropy(logits, labels).item() == pytest.approx(total / count, rel=1e-5)
    total, mass, _ = naive(logits, labels, weights, lambda *_: 1)
    assert cross_entropy(logits, labels, weights).item() == pytest.approx(total / mass, rel=1e-5)


def test_boundary_focal():
    logits, labels, weights = case(1)
    boundary = torch.from_numpy(np.random.default_rng(2).choice([1, 2, 4, 8], labels.shape).astype(np.uint8))

    def of_pixel(n, i, j, p):
        return int(boundary[n, i, j]) * math.exp(0.5 * (1 - p))

    for class_weight in (None, weights):
        total, _, count = naive(logits, labels, torch.ones(5) if class_weight is None else class_weight, of_pixel)
        assert boundary_focal(logits, labels, boundary, class_weight).item() == pytest.approx(total / count, rel=1e-5)


def test_no_gradient_through_the_focus():
    """The gradient is the weight times cross-entropy's."""
    logits, labels, _ = case(3, shape=(1, 1, 1))
    labels[:] = 2
    boundary = torch.full_like(labels, 4)
    gradients = []
    for loss in (lambda z: cross_entropy(z, labels), lambda z: boundary_focal(z, labels, boundary)):
        z = logits.clone().requires_grad_()
        loss(z).backward()
        gradients.append(z.grad)
    p = torch.softmax(logits, 1)[0, 2, 0, 0]
    assert torch.allclose(gradients[1], 4 * torch.exp(0.5 * (1 - p)) * gradients[0], rtol=1e-5)


def test_nothing_labelled_is_no_loss():
    logits, labels, weights = case(4)
    labels[:] = 255
    logits.requires_grad_()
    ones = torch.ones_like(labels)
    total = cross_entropy(logits, labels) + cross_entropy(logits, labels, weights)
    total = total + boundary_focal(logits, labels, ones, weights)
    total.backward()
    assert total.item() == 0 and logits.grad.abs().max() == 0


def test_sixteen_bit_logits_count_in_fp32():
    logits, labels, _ = case(5)
    assert cross_entropy(logits.bfloat16(), labels) == cross_entropy(logits.bfloat16().float(), labels)


def brute_force(labels, bins):
    """By the distance of every pixel to every other."""
    height, width = labels.shape
    edges = set()
    for i, j in np.ndindex(height, width):
        for row, column in ((i, j + 1), (i + 1, j), (i, j - 1), (i - 1, j)):
            if 0 <= row < height and 0 <= column < width:
                pair = {int(labels[i, j]), int(labels[row, column])}
                if len(pair) == 2 and 255 not in pair:
                    edges.add((i, j))
    weights = np.ones(labels.shape, np.uint8)
    for i, j in np.ndindex(height, width):
        distance = min((math.hypot(i - row, j - column) for row, column in edges), default=math.inf) + 1
        weights[i, j] = next((w for w, b in zip((8, 4, 2), bins) if distance < b), 1)
    return weights


@pytest.mark.parametrize("seed", range(4))
def test_weights_near_boundaries(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (4, 3)), np.ones((6, 8))).astype(np.uint8)
    labels[rng.integers(0, 24), :] = 255
    bins = (2, 4, 6)
    assert np.array_equal(boundary_weights(labels, bins), brute_force(labels, bins))


def test_no_boundary():
    assert (boundary_weights(np.full((5, 5), 3, np.uint8), (16, 64, 128)) == 1).all()


def test_median_frequency_balancing():
    pixels = np.array([100, 400, 0, 25, 200])
    assert np.allclose(class_weights(pixels, 1.0), [1.5, 150 / 400, 1, 6, 0.75])  # median of 25, 100, 200, 400: 150
    assert np.allclose(class_weights(pixels, 0.5), np.sqrt([1.5, 150 / 400, 1, 6, 0.75]))
    assert np.allclose(class_weights(pixels, 0.0), 1)
