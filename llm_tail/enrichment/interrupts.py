"""An interrupt that lets home what is under way, for it is paid for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def gentle_interrupts() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C within the block and raise `KeyboardInterrupt` at its end; a second one raises at once.

    Yields
    ------
    callable
        Says whether there was one, so that nothing new is begun. Outside of the main thread, which alone hears of
        interrupts, never.

    Examples
    --------
    >>> with gentle_interrupts() as interrupted:
    ...     interrupted()
    False
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen = False

    def note(number: int, frame: Any) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
    if seen:
        raise KeyboardInterrupt
