"""The service as a process of its own: uvicorn on one socket, until it is told to end."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from raudio.core.errors import ConfigError

#: Seconds for the head of a request to arrive, and for a refused body to be read to its end.
_PATIENCE = 10.0
#: Connections at once; beyond, requests get 503. Each takes up to three files, of 1,024 as a rule.
_CONNECTIONS = 300


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({reason}); "
            "give another --port (0: any free one), or an address of this machine as --host"
        ) from error


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def url_of(listening: socket.socket) -> str:
    """Where a socket is asked."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listening: socket.socket, *, grace: float, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or Ctrl-C; then answers what has arrived, and returns.

    Args:
        app: of `raudio.export.service`.
        listening: the socket.
        grace: seconds that requests have to be answered in the end.
        ready: called when requests are answered.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            log_config=None,
            access_log=False,  # the service has its own
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=max(1, round(grace)),
        ),
        ready,
    )
    with until_told():  # uvicorn tells itself again when it has ended: then it is no news
        server.run(sockets=[listening])


@contextmanager
def until_told() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, for the length of a `with` block."""
    told = threading.Event()
    handlers = {
        number: signal.signal(number, lambda *_: told.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield told
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class _Protocol(H11Protocol):
    """Closes connections on which no new request comes in time, also when bytes do.

    uvicorn waits for ever for the rest of a request's head, and for that of a body that the
    application didn't want.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_another()

    def on_response_complete(self) -> None:
        self._expect_another()
        super().on_response_complete()

    def _expect_another(self) -> None:
        last = self.cycle

        def give_up() -> None:
            if self.cycle is last:
                self.timeout_keep_alive_handler()

        self.loop.call_later(_PATIENCE, give_up)
