"""A thread beside the network: what is read ahead, what is written behind, and in what order."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from swiftnet_ext.engine import ahead as module
from swiftnet_ext.engine.ahead import ahead, has_spare_core


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_results_come_in_order(depth):
    assert list(ahead(lambda n: n * n, iter(range(7)), depth)) == [n * n for n in range(7)]
    assert list(ahead(lambda n: n, [], depth)) == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_than_depth_items_are_taken_before_a_result(depth):
    started = []
    results = ahead(lambda n: started.append(n) or n, range(10), depth)
    for n in range(10):
        assert next(results) == n
        time.sleep(0.01)
        assert len(started) <= n + depth


def test_the_thread_works_while_the_next_item_is_made():
    """Each side waits for the other: by one thread neither would go on."""
    written, made = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(4)]

    def items():
        for n in range(3):
            made[n].set()
            assert n == 0 or written[n - 1].wait(10)
            yield n
        made[3].set()

    def write(n):
        assert made[n + 1].wait(10)
        written[n].set()
        return threading.current_thread()

    threads = list(ahead(write, items(), 1))
    assert len(threads) == 3 and threading.main_thread() not in threads
    assert list(ahead(lambda n: threading.current_thread(), [0], 0)) == [threading.main_thread()]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_error_comes_in_its_turn(depth):
    results = ahead(lambda n: 12 // n, [3, 2, 0, 1], depth)
    assert [next(results), next(results)] == [4, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_abandoned_run_ends_its_thread():
    results = ahead(lambda n: n, iter(int, 1), 2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_a_core_is_to_spare_beside_a_gpu_or_fewer_threads(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    model = torch.nn.Linear(2, 2)
    assert not has_spare_core(model) and not has_spare_core(object())
    monkeypatch.setattr(model, "buffers", lambda: iter([SimpleNamespace(is_cuda=True)]))
    assert has_spare_core(model)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert has_spare_core(object())
