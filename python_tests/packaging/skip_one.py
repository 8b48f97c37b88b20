"""A pytest plugin for the report's tests: the first test is skipped."""

import pytest


def pytest_collection_modifyitems(items):
    items[0].add_marker(pytest.mark.skip(reason="for the test"))
