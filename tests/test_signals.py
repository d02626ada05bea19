"""What signals mean to a driver."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from raudio.cluster.signals import held, interruptible, terminable

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """Those of before; a test must not leave others."""
    before = {number: signal.signal(number, lambda *_: None) for number in ALL}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_hint_and_the_second_the_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupted:  # noqa: PT012
        os.kill(os.getpid(), number)
        assert interrupted.is_set()
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ALL)
def test_where_nothing_runs_yet_the_first_is_the_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), number)
    if number != signal.SIGHUP:
        assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ALL)
def test_what_cannot_be_broken_off_comes_to_its_end(number: signal.Signals) -> None:
    before, done = signal.getsignal(number), False
    heard: list[int] = []
    with pytest.raises(KeyboardInterrupt), held(lambda: heard.append(1)):  # noqa: PT012
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        done = True
    assert done
    assert heard == [1]
    if number != signal.SIGHUP:
        assert signal.getsignal(number) is before


def test_a_terminal_is_closed_once_however_often_it_is_told() -> None:
    with terminable():
        with interruptible() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupted.is_set()
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)


def test_nohup_is_heeded() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible() as interrupted:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupted.is_set()
