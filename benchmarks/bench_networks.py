"""Whole networks, uint8 image to uint8 labels, batch 1: a plain copy in eager PyTorch, then ours.

    pytest benchmarks/bench_networks.py --benchmark-only

A group is a network at one size and dtype. Each row's labels are compared with eager fp32's. `swiftnet benchmark` has more
peers, takes turns between them and sets the allocator; these rows are for following one machine over time.
"""

import pytest
import torch

from swiftnet_ext.engine.benchmark.plan import DTYPES, Case
from swiftnet_ext.engine.benchmark.row import equal_share, expected_labels, images_of, network_of
from swiftnet_ext.engine.benchmark.sides import MAKERS, Setup, labels_of

NETWORKS = {"swiftnet_rn18": None, "swiftnet_mnv2": "camvid_mnv2", "swiftnet_pyr_mnv2": "camvid_pyr_mnv2"}
SIZES = {"512x256": (512, 256), "1024x512": (1024, 512)}


@pytest.mark.parametrize("dtype", ["fp32", "fp16" if torch.cuda.is_available() else "bf16"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side", ["eager", "ours"])
def bench_network(side, network, size, dtype, device, benchmark, compared, tmp_path):
    case = Case(network, NETWORKS[network], *SIZES[size], dtype, device, "user", "default")
    images, _ = images_of(case, (), 1)
    model, weights = network_of(case, images)
    setup = Setup(model, images, DTYPES[dtype], torch.device(device), "user", torch.get_num_threads(), tmp_path)
    made = MAKERS[side](setup)
    benchmark.extra_info.update(weights=weights, what=made.what)
    run = lambda: benchmark.pedantic(made.call, (0,), rounds=9, warmup_rounds=2)  # noqa: E731
    labels = compared(f"{network} {size} {dtype}", side == "eager", run)
    expected, allowed = expected_labels(setup)
    assert 1 - equal_share([labels_of(labels)], expected) <= allowed
