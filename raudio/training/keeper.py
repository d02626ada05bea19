"""Keeps a trial's checkpoints where its run is: on a disk at once, in a store while training goes
on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from raudio import checkpoint
from raudio.core import storage
from raudio.core.storage import StoreError, is_remote, join, write_atomic
from raudio.core.units import Seconds, format_seconds

T = TypeVar("T")

#: The pause after an attempt that a store has refused, beside those of `core.storage`.
PAUSE: Seconds = 5.0


class Keeper:
    """The checkpoints of one trial; a context manager.

    On a disk, a checkpoint is there when `save` returns. For a store it is packed in memory, and a
    thread sends it; one that has not been sent yet gives way to a newer one of its name. They are
    sent in the order of `save`, each of them appears whole, and while the store fails it is asked
    again and again.

    Args:
        place: folder or URI of the trial in its run.
        patience: how long the store may fail.
    """

    def __init__(self, place: str, patience: Seconds) -> None:
        self.place = place
        self._patience = patience
        self._remote = is_remote(place)
        self._waiting: dict[str, bytes] = {}
        self._sending = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; None: there is none.

        Raises:
            RunError: it is damaged.
            OSError: it cannot be read.
        """
        return self._patiently("read", self._load)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keeps `state`, of tensors and plain values only, under one of `checkpoint`'s names.

        Raises:
            OSError: the disk cannot be written.
        """
        if not self._remote:
            checkpoint.save(join(self.place, name), state)
            return
        content = checkpoint.pack(state)
        with self._changed:
            self._waiting.pop(name, None)
            self._waiting[name] = content  # behind those of other names
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settled(self) -> bool:
        """Whether all that was saved is kept.

        Raises:
            StoreError: the store has failed for longer than the patience.
        """
        if self._error is not None:
            raise self._error
        return not self._waiting and not self._sending

    def wait(self, seconds: Seconds | None = None) -> bool:
        """Waits until all that was saved is kept; whether it is.

        Args:
            seconds: to wait at most; None: as long as it takes.

        Raises:
            StoreError: as `settled`.
        """
        with self._changed:
            self._changed.wait_for(self.settled, seconds)
        return self.settled()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *error: object) -> None:
        """What is not kept by now is not: whoever needs it has waited."""
        with self._changed:
            self._waiting.clear()
            self._ended.set()
            self._changed.notify_all()

    def _load(self) -> dict[str, Any] | None:
        checkpoint.sweep(self.place)
        checkpoint.take_over(self.place)
        return checkpoint.find(join(self.place, checkpoint.LAST))

    def _send(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._ended.is_set())
                if self._ended.is_set():
                    return
                name = next(iter(self._waiting))
                content = self._waiting.pop(name)
                self._sending = True
            path = join(self.place, name)
            try:
                self._patiently("written", lambda: write_atomic(path, content))  # noqa: B023
            except Exception as error:  # whoever waits is to know
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _patiently(self, what: str, call: Callable[[], T]) -> T:
        """What `call` returns, which may fail for as long as the store may."""
        began = time.monotonic()
        while True:
            try:
                with storage.patient(storage.RETRY_SECONDS):  # it may be told to end
                    return call()
            except OSError as error:
                if not self._remote:
                    raise
                storage.heed()()
                if time.monotonic() - began > self._patience or self._ended.wait(PAUSE):
                    raise StoreError(
                        f"{self.place} could not be {what} for {format_seconds(self._patience)} "
                        f"(run.patience): {error}"
                    ) from error
