"""The order of training samples."""

import numpy as np
import pytest

from swiftnet_ext.data.labelled import DataError
from swiftnet_ext.data.transforms import Augmentation
from swiftnet_ext.engine.config import ConfigError
from swiftnet_ext.engine.samples import Batches, Samples, load


class Pictures:
    """Ten pictures of noise."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (40, 50, 3), np.uint8), rng.integers(0, 5, (40, 50)).astype(np.uint8)


def test_an_epoch_takes_every_sample_once():
    batches = Batches(10, batch=2, accumulate=1, rank=0, processes=1, seed=3)
    keys = [key for batch in batches.of(4) for key in batch]
    assert batches.steps == 5 and sorted(keys) == [(4, i) for i in range(10)]
    assert keys != [key for batch in batches.of(5) for key in batch]  # another epoch, another order


def test_processes_share_what_one_accumulates():
    one = list(Batches(50, 3, 2, rank=0, processes=1, seed=1).of(0))
    two = [list(Batches(50, 3, 1, rank=r, processes=2, seed=1).of(0)) for r in range(2)]
    assert one == [batch for pair in zip(*two) for batch in pair]


def test_from_any_step_on():
    batches = Batches(50, 3, 2, rank=0, processes=1, seed=1)
    assert list(batches.of(2, first_step=5)) == list(batches.of(2))[10:]


def test_too_few_samples():
    with pytest.raises(ConfigError, match=r"run.batch: a step takes 24 .* has 10; lower"):
        Batches(10, 6, 2, 0, 2, 0)


def test_workers_change_nothing():
    samples = Samples(Pictures(), Augmentation(32, colour=0.2), 7, weights=lambda labels: labels // 2)
    batches = Batches(10, 4, 1, 0, 1, 7)
    runs = [list(load(samples, batches, epoch=1, first_step=0, workers=w, pin=False)) for w in (0, 2)]
    assert len(runs[0]) == 2 and runs[0][0]["image"].shape == (4, 3, 32, 32)
    for a, b in zip(*runs):
        assert all((a[name] == b[name]).all() for name in ("image", "labels", "weights"))
    assert (runs[0][0]["weights"] == runs[0][0]["labels"] // 2).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(workers):
    class Damaged(Pictures):
        def __getitem__(self, index):
            raise DataError(f"/data/{index}.png: label 13, expected 0 to 11")

    samples = Samples(Damaged(), Augmentation(32), 0)
    with pytest.raises(DataError, match=r"^/data/\d.png: label 13, expected 0 to 11$"):
        list(load(samples, Batches(10, 4, 1, 0, 1, 0), 0, 0, workers, pin=False))
