"""Multi-scale inference and ensembles against a naive computation that holds everything."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import swiftnet_ext as sx

from .published_like import bilinear, randomise

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5)


def naive(models, images, factors, order, flip):
    """The mean over models, scales and mirror images of the class probabilities at the image's size."""
    size, parts = images.shape[2:], []
    for model in models:
        for factor in factors:
            scaled = bilinear(images, tuple(int(round(n * factor)) for n in size))
            for mirrored in (False, True) if flip else (False,):
                logits = model.logits(torch.flip(scaled, [3]) if mirrored else scaled)
                logits = torch.flip(logits, [3]) if mirrored else logits
                if order == "softmax_then_resize":
                    parts.append(bilinear(F.softmax(logits, 1), size))
                else:
                    parts.append(F.softmax(bilinear(logits, size), 1))
    return torch.stack(parts).mean(0)


def network(name="swiftnet_mnv2", seed=0, **options):
    return randomise(sx.build_model(name, num_classes=4, channels=16, **options), seed)


@pytest.mark.parametrize("order", ["softmax_then_resize", "resize_then_softmax"])
@pytest.mark.parametrize("flip", [False, True])
def test_multi_scale_is_the_naive_mean(order, flip, backend, device):
    model = network(spp=False).to(device)  # the emulated pooling takes most of the time
    images = 255 * torch.rand(2, 3, 50, 70, device=device)
    multi = sx.nn.MultiScale(model, order=order, flip=flip).eval()
    assert multi.factors == FACTORS
    with torch.no_grad():
        expected = naive([model], images, FACTORS, order, flip)
        mean, labels = multi(images), multi(images, reduce="argmax")
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)
    top = expected.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 2e-5
    assert float(clear.float().mean()) > 0.9
    assert torch.equal(labels[clear].long(), expected.argmax(1)[clear])


def test_an_ensemble_is_the_naive_mean(backend, device):
    models = [network().to(device), network("swiftnet_pyr_mnv2", 1, levels=2).to(device), network(seed=2).to(device)]
    images = 255 * torch.rand(1, 3, 40, 64, device=device)
    ensemble = sx.nn.Ensemble(models, factors=(1.0, 0.5)).eval()
    with torch.no_grad():
        expected = naive(models, images, (1.0, 0.5), "softmax_then_resize", False)
        torch.testing.assert_close(ensemble(images), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(sx.nn.Ensemble(models)(images), sx.nn.Ensemble(models, (1.0,))(images))


def test_segment_is_the_labels_of_the_mean():
    multi = sx.nn.MultiScale(network(), flip=True).eval()
    image = np.random.RandomState(0).randint(0, 256, (48, 60, 3)).astype(np.uint8)
    labels = multi.segment(image)
    assert labels.dtype == np.uint8 and labels.shape == (48, 60) and multi.num_classes == 4
    with torch.no_grad():
        images = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        assert np.array_equal(labels, multi(images, reduce="argmax")[0].numpy())
    with pytest.raises(RuntimeError, match="train mode"):
        multi.train().segment(image)


def test_refuses_what_it_cannot_run():
    with pytest.raises(TypeError, match="MultiScale: model: expected one with a method logits"):
        sx.nn.MultiScale(torch.nn.ReLU())
    with pytest.raises(TypeError, match="Ensemble: model: expected one with a method logits"):
        sx.nn.Ensemble([])
    with pytest.raises(ValueError, match="factors: expected positive"):
        sx.nn.MultiScale(network(), factors=(0, 1))
    with pytest.raises(ValueError, match="order: expected one of"):
        sx.nn.MultiScale(network(), order="mean")
    with pytest.raises(ValueError, match=r"expected the same classes of all, got \[4, 3\]"):
        sx.nn.Ensemble([network(), sx.build_model("swiftnet_mnv2", num_classes=3)])
    named = [network(), network()]
    named[0].classes, named[1].classes = list("abcd"), list("abdc")
    with pytest.raises(ValueError, match="expected the same classes of all"):
        sx.nn.Ensemble(named)
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "scene.png"):
        with pytest.raises(ValueError, match="images: expected a floating-point tensor"):
            sx.nn.MultiScale(network())(wrong)
