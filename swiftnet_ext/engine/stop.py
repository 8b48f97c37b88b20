"""Ctrl-C and SIGTERM, which end a run where its state can be kept."""

import signal
from types import FrameType
from typing import Any, Optional


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the run's state has been written."""


class Stop:
    """Within the block, Ctrl-C and SIGTERM are remembered; a second one acts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Stop":
        self._previous = {s: signal.signal(s, self._remember) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _remember(self, number: int, frame: Optional[FrameType]) -> None:
        self.asked = True
        signal.signal(number, self._previous[signal.Signals(number)])

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
