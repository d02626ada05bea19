"""Who drives a run: one driver at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from raudio.core.errors import RunError
from raudio.records.layout import LOCK, OWNER, OWNER_STALE


class RunLock:
    """Held by the driver of a run while it lives; the kernel lets go of it when the driver dies.

    A context manager. The lock is `flock` on `.lock` in the run, whose descriptor no started
    program inherits, so that Ray's processes, which may outlive a killed driver, do not hold it.

    Args:
        run: the run folder; made when it isn't there.
    """

    def __init__(self, run: Path) -> None:
        self.run = Path(run)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Takes the lock.

        Raises:
            RunError: another driver holds it, or nothing can be written there.
        """
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(
                f"run folder {str(self.run)!r} cannot be written: {error.strerror}; make it "
                "writable, or go on with a copy of it"
            ) from error
        # `is_locked` of another process takes a shared lock for a moment: not a driver, so wait.
        for patience in (0.05, 0.1, 0.2, 0.0):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(patience)
        else:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"run folder {str(self.run)!r} is in use by another raudio process"
                f"{f' ({holder})' if holder else ''}; wait for it, or stop it first"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None


def owner_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the driver that OWNER tells of has lately shown that it lives."""
    seen = owner.get("time")
    return isinstance(seen, int | float) and time.time() - seen < OWNER_STALE


def is_locked(run: str | os.PathLike[str]) -> bool:
    """Whether a driver holds the run, or, of a copy of a run in a store, held it when copied."""
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads((Path(run) / OWNER).read_bytes())
        if isinstance(owner, dict) and owner_alive(owner):
            return True
    try:
        descriptor = os.open(Path(run) / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
