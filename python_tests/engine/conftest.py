"""The command line, in this process and in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swiftnet_ext import cli

from .tiny_run import write_pictures


@pytest.fixture(autouse=True, scope="session")
def freed_memory_goes_back():
    """Training on a CPU has malloc keep freed memory for good; the process's other tests take gigabytes, and fork.

    A MonkeyPatch of its own: a test that calls its monkeypatch's undo() would undo this too.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("swiftnet_ext.engine.train.reuse_memory", lambda: None)
        yield


@pytest.fixture
def swiftnet(monkeypatch, capsys, tmp_path):
    """Runs `swiftnet` in an empty folder; gives (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["swiftnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return (exit.value.code, *capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture(scope="session")
def swiftnet_process():
    """Runs `swiftnet` in a process of its own, which takes seconds to start; gives the completed process."""

    def run(*arguments, env=(), **options):
        options.setdefault("cwd", Path(__file__).parent)  # where the source tree does not hide the installed package
        command = [sys.executable, "-m", "swiftnet_ext.cli", *map(str, arguments)]
        environment = dict(os.environ, OMP_NUM_THREADS="1", **dict(env))
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, **options)

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A data set for tiny_run."""
    path = tmp_path_factory.mktemp("pictures")
    write_pictures(path)
    return path


@pytest.fixture
def one_thread():
    """The order of sums in oneDNN depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
