import pytest

from swiftnet_ext import _native


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_check(name): only for the emulation built with this check")


def pytest_collection_modifyitems(config, items):
    """Deselects what only another build can show; `make prove` runs each build."""
    module, _ = _native.emulated()
    if module is None:
        return  # the tests' own fixture says so

    def is_for_another_build(item):
        marker = item.get_closest_marker("needs_check")
        return marker is not None and marker.args[0] != module.emulation.check

    others = [item for item in items if is_for_another_build(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.fixture
def emulation():
    """The emulated module's own controls, back at their defaults afterwards."""
    module, reason = _native.emulated()
    assert module is not None, reason
    module.emulation.take_launches()
    yield module.emulation
    module.emulation.options.reset()
    module.emulation.take_launches()
