"""The command line in this process."""

import sys

import pytest

from swiftnet_ext import cli


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
