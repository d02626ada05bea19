"""A search's driver as a process that may be killed, each on a machine of its own as far as raudio
can see: what it knows of the run is what the run holds, and nobody else sees its disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

RAUDIO = (sys.executable, "-m", "raudio.cli.main")


#: Starts a process whose folder, its first argument, is on a disk that only it sees, and its
#: children: in a mount namespace. Linux lets root do so, and mostly others in a namespace of users.
_OWN_DISK = ("sh", "-c", 'mount -t tmpfs tmpfs "$0" && cd "$0" && mkdir tmp && exec "$@"')


def own_disk(folder: Path) -> list[str]:
    """What to put in front of a command for such a disk; empty where the system has none."""
    for options in ("-m",), ("-r", "-m"):
        start = ["unshare", *options, *_OWN_DISK, str(folder)]
        try:
            if not subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
                return start
        except FileNotFoundError:
            return []
    return []


class Driver:
    """`raudio ARGUMENTS` in the background.

    Args:
        arguments: of `raudio`.
        folder: a new one, for its cache and its temporary files; its log is beside it.
        environment: added to this process's own.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.log = folder.with_suffix(".txt")
        folder.mkdir(parents=True)
        start = own_disk(folder)
        if not start:
            (folder / "tmp").mkdir()
        own = {"RAUDIO_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*start, *RAUDIO, *arguments],
                cwd=folder,
                env={**os.environ, **environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.poll()

    @property
    def last_words(self) -> str:
        """The end of what it said."""
        lines = self.log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return " / ".join(said[-2:])[-400:]

    def signal(self, number: signal.Signals) -> None:
        """SIGKILL goes to all that it has started here as well: its machine is gone."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float = 600
) -> str:
    """What `raudio ARGUMENTS` prints on standard output.

    Raises:
        RuntimeError: it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*RAUDIO, *arguments],
        cwd=folder,
        env={**os.environ, **environment, "RAUDIO_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"raudio {' '.join(arguments)} ended with {done.returncode}: "
            f"{done.stderr.strip()[-2000:]}"
        )
    return done.stdout
