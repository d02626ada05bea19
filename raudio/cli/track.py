"""`raudio track`: sends a run to trackers; and the process that feeds one of them.

A driver starts that process for each tracker of its search: see `raudio.tracking.processes`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raudio.core.secrets import redact

if TYPE_CHECKING:
    from raudio.tracking.tracker import Outcome

#: Seconds between two looks at the records, and after a failure, doubled up to the longest.
_PAUSE = 1.0
_RETRY, _LONGEST = 10.0, 300.0
#: Characters of an error's message that are shown.
_LONG = 200


def track(
    run: Annotated[str, typer.Argument(help="run of a search or a training: folder or URI")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OVERRIDES]...", help="settings of the group tracking"),
    ] = None,
) -> None:
    """Sends a run to Weights & Biases, MLflow or TensorBoard, afterwards; what is there is joined.

    Without overrides to those that it was to be tracked by. A run that goes on feeds its trackers
    by itself.

    Example: raudio track runs/fsdd tracking=tensorboard
    """
    from raudio.config import compose, validate
    from raudio.core.errors import ConfigError
    from raudio.records import RunLock, find_run
    from raudio.tracking import build
    from raudio.tracking.processes import Trackers

    folder = find_run(run)
    recorded, plugins = _recorded(folder)
    given = list(overrides or ())
    for key, value in compose.values_of(given).items():
        if key == "plugins":
            plugins = [value] if isinstance(value, str) else list(value)
        elif not key.startswith("tracking."):
            raise ConfigError(f"{key} is no setting of trackers: raudio track RUN tracking=...")
    plugins = [str(Path(plugin).expanduser().resolve()) for plugin in plugins]
    validate.use_plugins(plugins)
    tracking = build.with_absolute_paths(compose.tracking(given, recorded))
    if not tracking.trackers:
        raise ConfigError(f"no tracker is chosen; for example: raudio track {run} tracking=wandb")
    build.check(tracking)

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    with (
        RunLock(folder),
        Trackers(folder, tracking, plugins=plugins, name=run, say=say, patience=None) as trackers,
    ):
        pass
    raise typer.Exit(1 if trackers.failed else 0)


def _recorded(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The group `tracking` of a run, and its plugins, as far as it says."""
    import yaml

    from raudio.records import SEARCH_YAML

    path = folder / SEARCH_YAML
    found = yaml.safe_load(path.read_text()) if path.is_file() else {}
    configuration = found.get("configuration") or {}
    plugins = (configuration.get("experiment") or {}).get("plugins") or []
    return configuration.get("tracking") or {}, plugins


# --- the process that feeds one tracker ----------------------------------------------------------


def main() -> int:
    """Follows the records of a run until standard input ends, as its first line says."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a Ray job's stop; its driver ends it
    job = json.loads(sys.stdin.buffer.readline())
    say = _redirected()
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        if job["patience"] is not None:
            # What hangs then, whatever it holds, is ended by the system, also without a driver.
            signal.setitimer(signal.ITIMER_REAL, job["patience"] + 1)
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    os.nice(10)
    from raudio.tracking.tracker import tracking_folder

    folder = tracking_folder(Path(job["run"]))
    with (folder / f".{job['tracker']}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # that of a driver which was killed may be at its end yet
        return _feed(job, closed, say)


def _feed(job: dict[str, Any], closed: threading.Event, say: Callable[..., None]) -> int:
    from raudio.config import validate
    from raudio.tracking.build import build_tracker
    from raudio.tracking.follow import Follower

    run, name = Path(job["run"]), job["tracker"]
    retry, failed = _RETRY, False
    while True:
        try:
            validate.use_plugins(job["plugins"])
            tracker = build_tracker(name, job["settings"])
            follower = Follower(run, tracker, name, job["name"])
            while not closed.is_set():
                if follower.step() and failed:
                    failed, retry = False, _RETRY
                    say("is up to date again")
                closed.wait(_PAUSE)
            follower.step()
            follower.end(_outcome(run, job["clips"]))
            if failed:
                say("is up to date again")
            if note := tracker.note:
                say(note)
            return 0
        except Exception as error:
            traceback.print_exc()
            if not failed:
                failed = True
                text = " ".join(f"{type(error).__name__}: {error}".split())
                say(f"failed ({redact(text)[:_LONG]})", failed=True)
        if closed.is_set():
            return 1
        closed.wait(retry)
        retry = min(2 * retry, _LONGEST)


def _outcome(run: Path, clips: int) -> Outcome:
    """What the bundle of a run says, and the audio of so many wrong clips."""
    from raudio.core.errors import UserError
    from raudio.report.clips import excerpts
    from raudio.report.run import BUNDLE_METRICS, read_run
    from raudio.tracking.tracker import Clip, Outcome

    found = read_run(run)
    heard: tuple[Clip, ...] = ()
    wrong = found.wrong[:clips]
    if wrong:
        try:
            heard = tuple(
                Clip(
                    part.clip,
                    found.labels[one["true"]],
                    found.labels[one["predicted"]],
                    float(one["score"]),
                    part.audio,
                )
                for one, part in zip(wrong, excerpts(found, wrong), strict=True)
            )
        except (UserError, OSError):  # the dataset is gone
            traceback.print_exc()
    bundle = run / BUNDLE_METRICS.parent
    return Outcome(
        bundle=bundle if bundle.is_dir() else None,
        labels=tuple(found.labels),
        confusion=tuple(map(tuple, found.confusion)),
        clips=heard,
    )


def _redirected() -> Callable[..., None]:
    """Sends all that is printed here to the log, without secrets; how to speak to the driver."""
    speak, log = os.dup(1), os.dup(2)
    reader, writer = os.pipe()
    for descriptor in (1, 2):
        os.dup2(writer, descriptor)
    os.close(writer)

    def copy() -> None:
        with os.fdopen(reader, "rb") as printed:
            for line in printed:
                os.write(log, redact(line.decode(errors="replace")).encode())

    def say(text: str, failed: bool = False) -> None:
        line = json.dumps({"text": text, "failed": failed}).encode() + b"\n"
        with contextlib.suppress(OSError):  # the driver is gone
            os.write(speak, line)

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        copier.join(1.0)  # a library's own process may hold it open

    copier = threading.Thread(target=copy, daemon=True)
    copier.start()
    atexit.register(end)
    return say


if __name__ == "__main__":
    sys.exit(main())
