"""What --every and --backends leave of the suite."""

import os

import pytest

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ops", "test_contract.py")


class Collected:
    def __init__(self, *options):
        self.items = []
        assert pytest.main([TESTS, "-q", "--collect-only", "-p", "no:xdist"] + list(options), plugins=[self]) == 0

    def pytest_collection_finish(self, session):
        self.items = session.items

    def of(self, *parameters):
        """Each test with its values of these parameters, or None where it has no such parameter."""
        given = ((i.nodeid.split("[")[0], getattr(i, "callspec", None)) for i in self.items)
        return {(name,) + tuple(str(spec.params.get(p)) if spec else None for p in parameters) for name, spec in given}


def test_one_case_in_five_leaves_each_test_on_each_backend_and_each_value():
    every, fifth = Collected(), Collected("--every", "5")
    assert every.of("backend") == fifth.of("backend") and len(every.of("backend")) > 30
    assert every.of("layout") == fifth.of("layout") and every.of("dtype") == fifth.of("dtype")
    assert len(every.items) / 5 <= len(fifth.items) < len(every.items) / 3


@pytest.mark.parametrize("named", ["cpu", "reference,cpu", "emulated"])
def test_tests_of_other_backends_are_left_out(named):
    every, some = Collected(), Collected("--backends", named)
    taken = [*named.split(","), "None", None]
    assert some.of("backend") == {(test, backend) for test, backend in every.of("backend") if backend in taken}
