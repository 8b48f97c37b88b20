"""Two tests for the GPU report's own: one passes, one is skipped. Not collected by itself."""

import pytest


def test_passes():
    pass


def test_is_skipped():
    pytest.skip("for the test")
