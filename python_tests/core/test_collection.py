"""What --every leaves of the suite."""

import os

import pytest

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ops", "test_contract.py")


class Collected:
    def __init__(self, every):
        self.items = []
        options = ["-q", "--collect-only", "-p", "no:xdist", "--every", str(every)]
        assert pytest.main([TESTS] + options, plugins=[self]) == 0

    def pytest_collection_finish(self, session):
        self.items = session.items

    def of(self, *parameters):
        """Each test with its values of these parameters, or None where it has no such parameter."""
        given = ((i.nodeid.split("[")[0], getattr(i, "callspec", None)) for i in self.items)
        return {(name,) + tuple(str(spec.params.get(p)) if spec else None for p in parameters) for name, spec in given}


def test_one_case_in_five_leaves_each_test_on_each_backend_and_each_value():
    every, fifth = Collected(1), Collected(5)
    assert every.of("backend") == fifth.of("backend") and len(every.of("backend")) > 30
    assert every.of("layout") == fifth.of("layout") and every.of("dtype") == fifth.of("dtype")
    assert len(every.items) / 5 <= len(fifth.items) < len(every.items) / 3
