"""What signals mean to a driver.

SIGTERM, which a cluster's manager sends, and SIGHUP, which comes when a terminal is closed, are
what Ctrl-C is. A program that is to outlive its terminal (`nohup`) ignores SIGHUP, and goes on to.

A terminal is closed once, and often told of twice, by its shell and by the system: SIGHUP is
ignored from the first one on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def terminable() -> Iterator[None]:
    """Each raises KeyboardInterrupt."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """The event that the first one sets; the second raises KeyboardInterrupt at once."""
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    with _handled(handle):
        yield interrupted


@contextmanager
def held(heard: Callable[[], None]) -> Iterator[None]:
    """However many there are, they raise one KeyboardInterrupt when the block ends.

    For what cannot be broken off. In an import, the exception may fall into a callback of a weak
    reference, where Python drops it, and the lock of all imports with it; a Ray that has half
    started takes the process down.

    Args:
        heard: called at the first, to say that it was heard.
    """
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if not interrupted.is_set():
            interrupted.set()
            heard()

    with _handled(handle):
        yield
    if interrupted.is_set():
        raise KeyboardInterrupt


@contextmanager
def _handled(handle: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        handle(number, frame)

    before = {}
    if threading.current_thread() is threading.main_thread():  # others get none
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, once if number == signal.SIGHUP else handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)
