"""Processes that a benchmark starts: their end, with all that they started, and their memory.

And what others do to the machine meanwhile, which tells whether a figure is worth anything.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 20.0  # seconds for an interrupted process to end by itself
_TICKS = os.sysconf("SC_CLK_TCK")  # of the kernel's CPU times, a second

#: The sessions of a benchmark's processes that run now, each with all that it has started.
sessions: set[int] = set()


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log`. Afterwards it has ended, and so has all it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    sessions.add(process.pid)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # What a process starts stays in its session, Ray's processes too.
        for member in members(process.pid):
            try:
                os.kill(member, signal.SIGKILL)
            except ProcessLookupError:
                continue
        sessions.discard(process.pid)


def finish(process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    """Waits for the end of a process.

    Raises:
        RuntimeError: it failed; with the end of its output.
        subprocess.TimeoutExpired: it did not end in time.
    """
    if process.wait(timeout):
        tail = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{tail}")


def run(command: Sequence[str], log: Path, timeout: float = 1800) -> float:
    """Runs a command to its end; when it was started, in Unix seconds. Raises as `finish`."""
    began = time.time()
    with started(command, log) as process:
        finish(process, log, timeout)
    return began


def members(session: int) -> list[int]:
    """The ids of the living processes of a session, which has the id of its first process."""
    return [process for process, (its, _) in _processes().items() if its == session]


def cpu_seconds(session: int) -> float:
    """CPU seconds of a session's living processes and of those ended that they waited for."""
    return sum(sum(times) for its, times in _processes().values() if its == session) / _TICKS


def session_memory(session: int) -> int:
    """Bytes (PSS) of all processes of a session."""
    found = (memory_of(process) for process in members(session))
    return sum(each.private + each.files + each.shared for each in found if each)


def _processes() -> dict[int, tuple[int, tuple[int, int]]]:
    """Each living process's session, and the CPU time that it has used and its ended children."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, *numbers = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it has just ended
            continue
        if state != "Z":
            own, waited = (int(numbers[i]) + int(numbers[i + 1]) for i in (10, 12))
            found[int(entry.name)] = int(numbers[2]), (own, waited)
    return found


class Others:
    """Measures what processes outside the benchmark use of the CPUs; a context manager."""

    def __init__(self, every: float = 1.0) -> None:
        self._every = every
        self._ended = threading.Event()
        self._cores: list[float] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cores(self) -> float:
        """How many cores' worth others have used, in the mean."""
        return statistics.mean(self._cores) if self._cores else 0.0

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before, at = self._used(), time.monotonic()
        while not self._ended.wait(self._every):
            used, now = self._used(), time.monotonic()
            ours = sum(ticks - before[1].get(process, 0) for process, ticks in used[1].items())
            self._cores.append(max(0.0, (used[0] - before[0] - ours) / _TICKS / (now - at)))
            before, at = used, now

    def _used(self) -> tuple[int, dict[int, int]]:
        """Ticks that all processes have used, and those of each of the benchmark's."""
        user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
        mine = {
            process: ticks
            for process, (session, (ticks, _)) in _processes().items()
            if session in sessions or process == os.getpid()
        }
        return int(user) + int(nice) + int(system), mine


@dataclass(frozen=True)
class Memory:
    """A process's share of the memory (PSS): each page divided by the processes that map it.

    Attributes:
        name: how the process calls itself.
        private: bytes that no file and no other process has.
        files: of programs, libraries and other mapped files.
        shared: of memory shared between processes, where Ray's object store is.
    """

    name: str
    private: int
    files: int
    shared: int


def memory_of(process: int) -> Memory | None:
    """The memory of a process; None when it has ended."""
    try:
        name = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    parts = (kilobytes[f"Pss_{part}"] << 10 for part in ("Anon", "File", "Shmem"))
    return Memory(name.strip(), *parts)
