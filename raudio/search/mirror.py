"""Where a run is: a folder, or a store, whose driver works in a local copy of its own small files.

Trials keep their checkpoints in the run themselves. All else is written by the driver, and a thread
keeps the store up to date with it. A driver may die, and another machine go on with what the store
holds, between any two objects. So they are sent in an order in which the records never promise what
is not there: first everything but the records, then the records, and only then files are removed,
which these records know to be useless.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from raudio.config.schema import Run
from raudio.core import storage
from raudio.core.copies import copies_of, fetch
from raudio.core.errors import RunError
from raudio.core.storage import is_remote
from raudio.core.units import Seconds, format_seconds, parse_seconds
from raudio.records import (
    BEST,
    DONOR,
    LAST,
    OWNER,
    OWNER_STALE,
    RECORDS,
    TRIALS,
    check_run,
    is_locked,
    no_run,
    owner_alive,
    trial_file,
)

#: The pause between two rounds; a longer one after a round that took longer.
PAUSE: Seconds = 5.0
#: How often a driver shows in the store that it lives.
BEAT: Seconds = OWNER_STALE / 6

_CHECKPOINTS = (LAST, BEST, DONOR)
_SENT = ".sent.json"
_SNAPSHOT = ".snapshot"

#: Size and time of a file when it was sent.
Stamp = tuple[int, int]


@dataclass
class InPlace:
    """A run on a local or shared disk: as `Mirror`, with nothing to send.

    Attributes:
        name: as the user calls the run.
        folder: where it is.
        patience: asks for nothing.
        broken: None, always.
    """

    name: str
    folder: Path
    patience: Seconds = 0.0
    broken: str | None = None

    def __enter__(self) -> InPlace:
        return self

    def __exit__(self, *error: object) -> None: ...

    def send(self) -> None: ...

    def checkpoints(self) -> set[str]:
        """The checkpoints of its trials: paths inside the run."""
        folders = (self.folder / TRIALS).glob("*")
        return {
            trial_file(folder.name, name)
            for folder in folders
            for name in _CHECKPOINTS
            if (folder / name).is_file()
        }

    def remove(self, *files: str) -> None:
        """Removes files, given by their paths inside the run; one that is not there is fine."""
        for file in files:
            (self.folder / file).unlink(missing_ok=True)

    def copy(self, source: str, target: str) -> None:
        """Copies a file of the run.

        Raises:
            OSError: there is none (FileNotFoundError), or it cannot be copied.
        """
        storage.copy(self.folder / source, self.folder / target)


def working_copy(
    run: str | os.PathLike[str], *, new: bool, say: Callable[[str], None]
) -> InPlace | Mirror:
    """Where the driver of `run` works; arguments as `Mirror`."""
    name = os.fspath(run)
    storage.check_uri(name)
    return Mirror(name, new=new, say=say) if is_remote(run) else InPlace(name, Path(run))


def is_checkpoint(file: str) -> bool:
    """Whether a path inside a run is that of a trial's checkpoint."""
    return file.startswith(f"{TRIALS}/") and file.rpartition("/")[2] in _CHECKPOINTS


class Mirror:
    """Keeps a run in a store up to date with its working copy; a context manager.

    Args:
        name: the run's URI.
        new: whether it is to be made; otherwise it is gone on with.
        say: told when the store fails, and when it is back.

    Attributes:
        name: as the user calls the run: its URI.
        folder: the working copy, in the cache; `RunLock` and all else see only this.
        patience: how long the store may fail before the search stops.
        broken: why the search has to stop; None while it can go on.
    """

    def __init__(self, name: str, *, new: bool, say: Callable[[str], None]) -> None:
        self.name = name.rstrip("/")
        self.folder = copies_of(self.name) / "work"
        self.patience: Seconds = parse_seconds(Run().patience)
        self.broken: str | None = None
        self._new = new
        self._say = say
        self._token = uuid.uuid4().hex
        self._sent: dict[str, Stamp] = {}
        self._useless: list[str] = []  # to be removed from the store
        self._sending = threading.Lock()
        self._failing_since: float | None = None
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, daemon=True),
            threading.Thread(target=self._beat, daemon=True),
        ]

    def __enter__(self) -> Mirror:
        """Takes the run, and what the store has of it.

        Raises:
            RunError: another driver has it, there is none, or the store cannot be used.
        """
        try:
            self._take()
            if self._new:
                shutil.rmtree(self.folder, ignore_errors=True)
            else:
                self._take_up()
        except OSError as error:
            raise RunError(f"run {self.name!r}: the store cannot be used: {error}") from error
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Sends what is left.

        Raises:
            RunError: the store still fails; the working copy is whole.
        """
        self._ended.set()
        for thread in self._threads:
            thread.join()
        try:
            if not self._taken_over():
                self.send()
                storage.remove(storage.join(self.name, OWNER))
        except OSError as failure:
            raise RunError(
                f"run {self.name!r} is not up to date, as the store fails: {failure}; what was not "
                f"sent is in {str(self.folder)!r}, and `raudio resume {self.name}` on this machine "
                "sends it"
            ) from failure

    def send(self) -> None:
        """One round: everything that has changed since the last.

        Raises:
            OSError: the store fails; what was not sent is sent in the next round.
        """
        with self._sending:
            self._send_all()

    def checkpoints(self) -> set[str]:
        """The checkpoints of its trials: paths inside the run.

        Raises:
            OSError: the store cannot be listed.
        """
        found = storage.listing(storage.join(self.name, TRIALS))
        return {file for each in found if is_checkpoint(file := f"{TRIALS}/{each}")}

    def remove(self, *files: str) -> None:
        """Removes files, given by their paths inside the run: from the store in the next round."""
        for file in files:
            (self.folder / file).unlink(missing_ok=True)
        self._useless += files

    def copy(self, source: str, target: str) -> None:
        """Copies a file of the run, in the store.

        Raises:
            OSError: there is none (FileNotFoundError), or it cannot be copied.
        """
        storage.copy(storage.join(self.name, source), storage.join(self.name, target))

    # --- rounds --------------------------------------------------------------------------------

    def _send_all(self) -> None:
        if not self.folder.is_dir():
            return
        useless, before = list(self._useless), self._files()
        records = self.folder / RECORDS
        known = records.read_bytes() if records.exists() else b""
        for file, stamp in self._files().items():
            if file != RECORDS and self._sent.get(file) != stamp:
                self._send(file, stamp)
        if known and self._sent.get(RECORDS) != (len(known), 0):
            storage.write_atomic(storage.join(self.name, RECORDS), known)
            self._sent[RECORDS] = (len(known), 0)
        for file in dict.fromkeys([*useless, *(self._sent.keys() - before.keys())]):
            storage.remove_file(storage.join(self.name, file))
            self._sent.pop(file, None)
        del self._useless[: len(useless)]
        shutil.rmtree(self.folder / _SNAPSHOT, ignore_errors=True)
        storage.write_atomic(self.folder / _SENT, json.dumps(self._sent))

    def _keep(self) -> None:
        pause = PAUSE
        while not self._ended.wait(pause):
            started = time.monotonic()
            try:
                self.send()
            except OSError as error:
                self._failed(error, started)
            else:
                if self._failing_since is not None:
                    self._say(f"{self.name} can be written again")
                self._failing_since = None
            pause = max(PAUSE, time.monotonic() - started)

    def _failed(self, error: OSError, now: float) -> None:
        if self._failing_since is None:
            self._failing_since = now
            self._say(f"{self.name} cannot be written ({error}); the search goes on here meanwhile")
        elif now - self._failing_since > self.patience:
            self.broken = (
                f"{self.name} could not be written for {format_seconds(self.patience)} "
                f"(run.patience): {error}; what was not sent is in {str(self.folder)!r}, on this "
                "machine"
            )

    def _files(self) -> dict[str, Stamp]:
        """The files of the working copy; what begins with a dot is its own affair."""
        found: dict[str, Stamp] = {}
        for root, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(root, name)
                if not name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # removed just now
                        stat = path.stat()
                        file = path.relative_to(self.folder).as_posix()
                        found[file] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _send(self, file: str, stamp: Stamp) -> None:
        """Sends a file as it is now: a link keeps one that is replaced meanwhile."""
        content = self.folder / _SNAPSHOT / file
        content.parent.mkdir(parents=True, exist_ok=True)
        content.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # removed just now
            os.link(self.folder / file, content)
        if content.exists():
            storage.upload(content, storage.join(self.name, file))
            self._sent[file] = stamp

    # --- owner ---------------------------------------------------------------------------------

    def _take(self) -> None:
        """Becomes the run's driver. Best effort: a store has no locks, and clocks may differ."""
        owner = self._owner()
        here = owner.get("host") == socket.gethostname()
        # A driver of this machine that is dead has let go of its lock at once.
        if owner_alive(owner) and not (here and not is_locked(self.folder)):
            raise RunError(
                f"run {self.name!r} is in use by process {owner.get('process')} on "
                f"{owner.get('host')}; wait for it, or stop it first (if it is dead: for "
                f"{format_seconds(OWNER_STALE)})"
            )
        self._show()

    def _show(self) -> None:
        who = {
            "token": self._token,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "time": round(time.time(), 3),
        }
        storage.write_atomic(storage.join(self.name, OWNER), json.dumps(who))

    def _owner(self) -> dict[str, object]:
        try:
            found = json.loads(storage.read_bytes(storage.join(self.name, OWNER)))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _taken_over(self) -> bool:
        token = self._owner().get("token")
        return token is not None and token != self._token

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # `_keep` sees to a store that fails
                if self._taken_over():
                    self.broken = f"another driver has taken over {self.name}"
                    self._ended.set()
                    return
                self._show()

    # --- going on ------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """The working copy, where the store knows no more than it; else what the store has."""
        local = self.folder / RECORDS
        try:
            stored = storage.read_bytes(storage.join(self.name, RECORDS))
        except FileNotFoundError:
            stored = b""
        if local.exists() and local.read_bytes().startswith(stored):
            sent = self.folder / _SENT
            if sent.exists():
                self._sent = {
                    file: (size, changed)
                    for file, (size, changed) in json.loads(sent.read_text()).items()
                }
        elif stored:
            shutil.rmtree(self.folder, ignore_errors=True)
            fetch(self.name, self.folder, lambda file: file != OWNER and not is_checkpoint(file))
            self._sent = {**self._files(), RECORDS: (len(stored), 0)}
        else:
            storage.remove(storage.join(self.name, OWNER))
            raise no_run(self.name)
        check_run(self.folder)
