"""Processes that a benchmark starts: their end, with all that they started, and their memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 20.0  # seconds for an interrupted process to end by itself


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
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, *numbers = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it has just ended
            continue
        if int(numbers[2]) == session and state != "Z":
            found.append(int(entry.name))
    return found


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
