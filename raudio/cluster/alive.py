"""Whether Ray is still there, and how a process ends when it is not.

Ray itself may wait for its dead parts without a word, or end the process on the spot.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator

from raudio.core.errors import ConfigError, RaudioError
from raudio.core.units import Seconds

#: Processes without which there is no Ray.
_VITAL = ("gcs_server", "raylet")
#: The signal that tells the main thread that Ray has died. Tune takes the other one of users, and
#: SIGINT, for a wish to end the search gently.
_DIED = signal.SIGUSR2
#: Between two looks at Ray.
_LOOK: Seconds = 0.5
#: So many looks in a row say that it is dead before a user is told.
_SAID_AFTER = 2
#: What the main thread has to leave in, when it is told to.
_PATIENCE: Seconds = 5.0
#: What a cluster's head has to answer in, and what Ray takes on top to say that it has not.
_ANSWER: Seconds = 5.0
_SAYS_SO: Seconds = 1.0
#: How long a cluster's head may be silent: one that keeps its state elsewhere is started again.
_SILENCE: Seconds = 45.0
#: The variable with Ray's own limit for that (60 s), at which it ends a process.
_RAYS = "RAY_gcs_rpc_server_reconnect_timeout_s"

#: What a process sets that joins a cluster, so that it, and not Ray, decides on its end. The
#: cluster's processes have their own.
ENVIRONMENT = {_RAYS: "300"}


class SessionError(RaudioError):
    """Ray did not start on this machine, or the session's Ray has died."""


def error(reason: str) -> None:
    """The last words of a command."""
    print(f"error: {reason}", file=sys.stderr)


@contextlib.contextmanager
def watched(
    look: Callable[[], str],
    looks: int,
    last_words: Callable[[str], None],
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[None]:
    """Ends the block in a SessionError when Ray has died.

    The main thread is interrupted: by a signal of its own, as a job in the background may ignore
    that of Ctrl-C. No signal reaches it while it waits for an answer of a GCS that is dead, which
    is what it mostly does then. So, if it does not leave, the process is ended from here.

    Args:
        look: why there is no Ray any more; empty while there is. It raises a SessionError where
            that is for good.
        looks: so many in a row have to say so.
        last_words, say: as for `session`.
    """
    ended, ending = threading.Event(), threading.Lock()
    reason = ""

    def watch() -> None:
        nonlocal reason
        dead, since = 0, 0.0
        while dead < looks:
            began = time.time()
            if ended.wait(_LOOK):
                return
            try:
                found = look()
            except SessionError as error:
                found = str(error)
                break
            if dead >= _SAID_AFTER and not found:
                say("the cluster answers again")
            dead, since = (dead + 1, since or began) if found else (0, 0.0)
            if dead == _SAID_AFTER < looks:
                until = since + looks * (_ANSWER + _SAYS_SO)
                say(f"{found}; since {_clock(since)}, waited for until {_clock(until)}")
        with ending:  # after the block, nobody handles the signal
            if ended.is_set():
                return
            reason = found
            signal.pthread_kill(main.ident or 0, _DIED)  # which also ends its sleep
        ended.wait(_PATIENCE)
        with ending:  # the main thread cannot leave the block any more
            if not ended.is_set():
                _end(reason, last_words)

    main = threading.main_thread()  # signals reach no other
    in_main = threading.current_thread() is main
    before = signal.signal(_DIED, signal.default_int_handler) if in_main else None
    if in_main:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except BaseException as error:
        with ending:
            ended.set()
        if reason := reason or look():
            raise SessionError(reason) from error
        raise
    else:
        if reason:  # somebody has taken the interrupt for himself
            raise SessionError(reason)
    finally:
        with ending:
            ended.set()
        if in_main:
            signal.signal(_DIED, before)


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))


def _end(reason: str, last_words: Callable[[str], None]) -> None:
    try:
        last_words(reason)
    except RaudioError as failure:
        error(str(failure))
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def own() -> tuple[Callable[[], str], int]:
    """`look` and `looks` for a Ray that this process has started."""
    from ray._private import worker

    node = worker._global_node

    def look() -> str:
        processes = [] if node is None else node.dead_processes()
        names = " and ".join(name for name, _ in processes if name in _VITAL)
        if not names:
            return ""
        return _has_died(names)

    return look, 1


def _has_died(names: str) -> str:
    return (
        f"Ray's process {names} on this machine has died (perhaps the system ended it for want of "
        "memory: see its log)"
    )


def check_limit() -> None:
    """Refuses a limit of Ray's that is no number: Ray would crash the process that imports it.

    Raises:
        ConfigError: what Ray was told is no number of seconds.
    """
    given = os.environ.get(_RAYS)
    if given is not None and not (given.isascii() and given.isdecimal() and int(given)):
        raise ConfigError(f"{_RAYS}={given!r}: give whole seconds, or leave it out for 60")


def silence() -> Seconds:
    """How long a cluster's head may be silent: 45 s, or three quarters of what Ray was told.

    Raises:
        ConfigError: as `check_limit`.
    """
    check_limit()
    given = os.environ.get(_RAYS)
    return _SILENCE if given is None else 0.75 * int(given)


def joined(silence: Seconds) -> tuple[Callable[[], str], int]:
    """`look` and `looks` for a cluster that this process has joined.

    Not by the clock: a process that was stopped and goes on has not listened meanwhile. The raylet
    of this machine never comes back, and Ray would end the process, without a word, when it next
    needs it: a connection tells at once.

    Raises:
        SessionError: that raylet has died already.
    """
    import ray
    from ray._private.worker import global_worker

    gcs, node = global_worker.gcs_client, global_worker.current_node_id
    raylet = socket.socket(socket.AF_UNIX)
    try:
        raylet.connect(global_worker.node.raylet_socket_name)
    except OSError as error:
        raylet.close()
        raise SessionError(_has_died("raylet")) from error

    def look() -> str:
        if _hung_up(raylet):
            raise SessionError(_has_died("raylet"))
        try:
            (lives,) = gcs.check_alive([node], timeout=_ANSWER)
        except ray.exceptions.RayError:
            return (
                f"the head of the cluster, {gcs.address}, does not answer any more: it is gone, "
                "its GCS has died, or the network is cut"
            )
        return "" if lives else "the cluster has lost the Ray of this machine"

    weakref.finalize(look, raylet.close)
    return look, math.ceil(silence / (_ANSWER + _SAYS_SO))


def _hung_up(connection: socket.socket) -> bool:
    """Whether the process at the other end is gone; it sends nothing."""
    try:
        return not connection.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
