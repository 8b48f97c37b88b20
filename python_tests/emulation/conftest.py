import pytest

from swiftnet_ext import _native


@pytest.fixture
def emulation():
    """The emulated module's own controls, back at their defaults afterwards."""
    module, reason = _native.emulated()
    assert module is not None, reason
    module.emulation.take_launches()
    yield module.emulation
    module.emulation.options.reset()
    module.emulation.take_launches()
