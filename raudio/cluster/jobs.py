"""Jobs of a Ray cluster, through its dashboard: submitted, waited for, followed, stopped.

Ray's own client does the work; here its errors become sentences, and connections that drop are
taken up again, as a laptop's do when it sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raudio.cluster import token
from raudio.cluster.capacity import SAFE
from raudio.cluster.package import Package, copy_raudio, write
from raudio.core.errors import ConfigError, RaudioError
from raudio.core.secrets import without_credentials

#: Where a cluster's dashboard is on its head, or at this end of a tunnel to it.
DEFAULT = "http://127.0.0.1:8265"
#: Variables that name another; Ray would let them win over what it is given.
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
#: Seconds that a job is given to stop gently before it is killed.
GRACE = 120
#: Loggers of Ray that tell of every package.
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
#: What a head says that has just been started, and seconds for which it may.
_NOT_YET, _STARTING = "try again later", 60.0
#: Seconds between two questions, and that a connection is tried.
_PAUSE, _PATIENCE = 2.0, 15.0
#: Seconds after which a silent connection is tested, and between tests, of which three may fail.
_KEEPALIVE = 20


class JobError(RaudioError):
    """A cluster did not do what was asked of it."""


def address_given(address: str | None) -> str:
    """The dashboard that is meant: what was given, else of the environment, else `DEFAULT`."""
    for found in (address, *map(os.environ.get, _VARIABLES)):
        if found and (found == address or found.startswith(("http://", "https://"))):
            return found if "://" in found else f"http://{found}"
    return DEFAULT


def connect(address: str) -> Any:
    """Ray's client of the jobs of a cluster.

    Args:
        address: the dashboard's, http://HOST:PORT.

    Raises:
        ConfigError: nobody answers there, it is no dashboard, or it takes another token.
    """
    parts = urlsplit(address)
    where = f"--address {without_credentials(address)}"
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), _PATIENCE):
            pass  # Ray's client would wait for ever
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without the number
        raise ConfigError(
            f"{where}: nobody answers there ({reason}); give the dashboard of the cluster's head, "
            "http://HEAD:8265, or make a tunnel to it: ssh -N -L 8265:127.0.0.1:8265 HEAD"
        ) from error
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:  # which set their own levels when they are imported
        logging.getLogger(name).setLevel(logging.WARNING)
    before = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        with _answers(where):
            return JobSubmissionClient(address)
    finally:
        os.environ.update(before)


@contextlib.contextmanager
def _answers(where: str) -> Iterator[None]:
    """Ray's errors as one sentence."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        text = str(error)
        sent = text.startswith(("Authentication required", "Authentication failed"))
        raise ConfigError(
            f"{where}: {token.refused() if sent else token.problem(error)}"
        ) from error
    except ConfigError:
        raise
    except (requests.RequestException, ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise JobError(f"{where}: {without_credentials(reason)}") from error


def ray_version(client: Any) -> str:
    """The version of Ray that a cluster has."""
    with _answers(client.get_address()):
        return str(client._do_request("GET", "/api/version").json()["ray_version"])


def has_resource(client: Any, name: str) -> bool:
    """Whether a node that is there offers a custom resource."""
    with _answers(client.get_address()):
        answer = client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")
        found = answer.json()["data"]["result"]["result"] if answer.ok else ()
    return any(name in (node.get("resources_total") or {}) for node in found)


def submit(
    client: Any,
    command: str,
    package: Package,
    *,
    told: Mapping[str, Any],
    job_id: str | None = None,
    cpus: float | None = None,
    pip: list[str] | None = None,
) -> str:
    """Sends a package and starts a command in it; the job's ID.

    Args:
        command: a line for the shell.
        told: what `raudio.cli.job` reads.
        cpus: that the command's process takes; None: none, and it is the head's.
        pip: packages that are installed first, as pip takes them.

    Raises:
        JobError: the cluster did not take it.
    """
    runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE)}}
    if pip:
        runtime_env["pip"] = pip
    with tempfile.TemporaryDirectory(prefix="raudio-submit-") as folder:
        archive = Path(folder, "working-dir.zip")
        write(package, archive, told)
        runtime_env["working_dir"] = str(archive)
        runtime_env["py_modules"] = [str(copy_raudio(Path(folder)))]
        resources = {SAFE: 0.001} if cpus and has_resource(client, SAFE) else None
        began = time.monotonic()
        while True:
            try:
                with _answers(client.get_address()):
                    return str(
                        client.submit_job(
                            entrypoint=command,
                            runtime_env=runtime_env,
                            submission_id=job_id,
                            entrypoint_num_cpus=cpus,
                            entrypoint_resources=resources,
                        )
                    )
            except JobError as error:
                if _NOT_YET not in str(error) or time.monotonic() - began > _STARTING:
                    raise
                time.sleep(_PAUSE)


def info(client: Any, job_id: str) -> Any:
    """Ray's `JobDetails` of a job.

    Raises:
        ConfigError: there is no such job.
        JobError: the cluster does not answer.
    """
    from ray.job_submission import JobDetails

    with _answers(client.get_address()):  # `get_job_info` would wait for ever
        answer = client._do_request("GET", f"/api/jobs/{job_id}", timeout=_PATIENCE)
        if answer.status_code == 404:
            raise ConfigError(
                f"{client.get_address()}: there is no job {job_id!r}; `ray job list` names all"
            )
        answer.raise_for_status()
        return JobDetails(**answer.json())


def stop(client: Any, job_id: str) -> bool:
    """Asks a job to stop; whether it was running."""
    info(client, job_id)
    with _answers(client.get_address()):
        return bool(client.stop_job(job_id))


def wait(client: Any, job_id: str, say: Callable[[str], None]) -> Any:
    """Ray's `JobDetails` of a job when it has ended.

    Args:
        say: told when the connection is lost, and when it is there again.
    """
    lost = False
    while True:
        try:
            found = info(client, job_id)
        except JobError as error:
            if not lost:
                say(f"connection lost, trying again: {error}")
            lost = True
        else:
            if lost:
                say("connected again")
            lost = False
            if found.status.is_terminal():
                return found
        time.sleep(_PAUSE)


def exit_status(details: Any) -> int:
    """What the command of a job that has ended exited with; 130 for one that was stopped."""
    from ray.job_submission import JobStatus

    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return 130
    return int(details.driver_exit_code or 1)


def follow(
    client: Any,
    job_id: str,
    take: Callable[[str], None],
    say: Callable[[str], None],
    tick: Callable[[], None] = lambda: None,
) -> Any:
    """Gives a job's log as it grows; Ray's `JobDetails` when it has ended.

    Args:
        take: told each line, once, whatever becomes of the connection.
        say: as for `wait`.
        tick: called once a second.

    Raises:
        ConfigError: there is no such job.
    """
    return asyncio.run(_follow(client, job_id, _Lines(take), say, tick))


class _Lines:
    """Puts lines together from the pieces of a log, which begins anew with each connection."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._seen = 0
        self._position = 0
        self._rest = ""

    def begin(self) -> None:
        self._position = 0

    def add(self, piece: str) -> None:
        new = piece[max(0, self._seen - self._position) :]
        self._position += len(piece)
        self._seen = max(self._seen, self._position)
        *lines, self._rest = (self._rest + new).split("\n")
        for line in lines:
            self._take(line)

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)
            self._rest = ""


async def _follow(
    client: Any, job_id: str, lines: _Lines, say: Callable[[str], None], tick: Callable[[], None]
) -> Any:
    import aiohttp

    async def ticks() -> None:
        while True:
            tick()
            await asyncio.sleep(1)

    async def tail() -> None:
        # Ray's own `tail_job_logs` waits for ever on a connection that a sleeping laptop has lost.
        lines.begin()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE)
        options: dict[str, Any] = {"headers": client._headers, "cookies": client._cookies}
        async with aiohttp.ClientSession(timeout=timeout, **options) as session:
            url = f"{client.get_address()}/api/jobs/{job_id}/logs/tail"
            ssl = True if client._ssl_context is None else client._ssl_context
            async with session.ws_connect(url, ssl=ssl) as connection:
                _keep_alive(connection.get_extra_info("socket"))
                async for message in connection:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        lines.add(message.data)

    ticking = asyncio.create_task(ticks())
    lost = False
    try:
        while True:
            reason = ""
            try:
                await asyncio.to_thread(info, client, job_id)  # else no job would be a lost one
                await tail()
                found = await asyncio.to_thread(info, client, job_id)
            except (aiohttp.ClientError, OSError, JobError) as error:
                found, reason = None, str(error) or type(error).__name__
            if found is not None and found.status.is_terminal():
                lines.end()
                return found
            if reason and not lost:
                say(f"connection lost, trying again: {without_credentials(reason)}")
            lost = bool(reason)
            await asyncio.sleep(_PAUSE)
    finally:
        ticking.cancel()


def _keep_alive(connection: socket.socket | None) -> None:
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _KEEPALIVE)
