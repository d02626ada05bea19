"""The HTTP service: a recording goes in, what `raudio predict --json` tells of it comes out.

| route | answers |
| --- | --- |
| POST /predict | the prediction for the recording in the body, or in the one file of a form |
| GET / | what is served |
| GET /health | that it is |
| GET /metrics | counts and times, as Prometheus reads them |
| GET /docs | how to ask, to be read and tried in a browser |

What can't be answered gets `{"error": reason}`: 4xx where the request is to blame, 503 where there
is too much to do. Nothing in a request names a file or an address to be read.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Annotated, Any, TypeAlias

import numpy as np
import torch
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raudio.audio.decode import blocks, info
from raudio.core.errors import ConfigError, DataError
from raudio.core.machine import cpus
from raudio.core.units import format_bytes
from raudio.export.predictor import Options, Predictor
from raudio.export.recordings import PIECE, Decoded

log = logging.getLogger("raudio.serve")

#: What a body may be, for the documentation.
_BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
#: Reasons that the framework leaves out.
_REASONS = {
    404: "there is nothing here; GET /docs tells what there is",
    405: "not by this method; GET /docs tells which",
}
#: A request whose client went away, as nginx calls it; nobody receives it.
_CLIENT_GONE = 499
#: Parts of a recording that are answered one by one, at most.
_MOST_PARTS = 10_000
_BEARER = HTTPBearer(auto_error=False)
_Seconds: TypeAlias = Annotated[float | None, Query(gt=0, le=86_400)]


@dataclass(frozen=True)
class Limits:
    """What requests may take.

    Attributes:
        bytes: of a body.
        seconds: of a recording.
        timeout: seconds until a body must have arrived, and as many again until it is answered.
        concurrency: predictions computed at once.
        queue: requests that may arrive or wait besides; further ones are sent away.
    """

    bytes: int = 64_000_000
    seconds: float = 3600.0
    timeout: float = 60.0
    concurrency: int = field(default_factory=cpus)
    queue: int = 64


def build_app(
    predictor: Predictor,
    limits: Limits | None = None,
    token: str | None = None,
    version: str = "unknown",
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        predictor: what answers.
        limits: what requests may take.
        token: what a request must show as `Authorization: Bearer TOKEN`, but for /health and the
            documentation; None: nothing.
        version: of raudio, to be told.
    """
    service = _Service(predictor, limits or Limits(), version)
    guards = [] if token is None else [Depends(_guard(token))]
    app = FastAPIOffline(
        title="raudio",
        summary="Labels for recordings",
        version=version,
        redoc_url=None,
        lifespan=service.lifespan,
    )
    app.add_middleware(_Watched, meters=service.meters)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(ClientDisconnect, _gone)

    @app.post("/predict", dependencies=guards, openapi_extra=_BODIES)
    async def predict(
        request: Request,
        window: Annotated[_Seconds, Query(description="an answer for each part so long")] = None,
        stride: Annotated[_Seconds, Query(description="from one part to the next")] = None,
        top: Annotated[int | None, Query(description="the highest scores alone")] = None,
        threshold: Annotated[
            float | None, Query(description="no label where its score is lower")
        ] = None,
    ) -> JSONResponse:
        """The prediction for a recording of any format, rate and channel count that raudio reads.

        It is the body (`curl --data-binary @x.wav`), or the one file of a form
        (`curl -F file=@x.wav`). With `window` or `stride`, a list of predictions.
        """
        try:
            options = Options(window=window, stride=stride, top=top, threshold=threshold)
            options = predictor.resolved(options)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return JSONResponse(await service.answer(request, options))

    @app.get("/", dependencies=guards)
    async def about() -> dict[str, Any]:
        """What is served."""
        return service.about()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether requests are answered."""
        return {"status": "ok"}

    @app.get("/metrics", dependencies=guards)
    async def metrics() -> Response:
        """Requests by status, their seconds, and the seconds of audio, as Prometheus reads them."""
        return Response(generate_latest(service.meters.registry), media_type="text/plain")

    return app


class _Meters:
    """What /metrics tells."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "raudio_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "raudio_request_seconds", "Seconds a request took", ["route"], registry=self.registry
        )
        self.audio = Counter(
            "raudio_audio_seconds", "Seconds of audio predicted for", registry=self.registry
        )


class _Service:
    """A predictor behind limits."""

    def __init__(self, predictor: Predictor, limits: Limits, version: str) -> None:
        self.predictor = predictor
        self.version = version
        self.limits = limits
        self.meters = _Meters()
        self._threads = ThreadPoolExecutor(limits.concurrency, "predict")
        self._held = 0  # requests that arrive, wait or are computed

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """From before the first request until after the last."""
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, cpus() // self.limits.concurrency))
        # Each prediction forbids it and allows it again, and several run at once.
        torch.backends.cudnn.allow_tf32 = False
        silence = np.zeros(self.predictor.sample_rate, np.float32)
        self.predictor.predict(silence, self.predictor.sample_rate)  # the first one takes longer
        with tempfile.TemporaryDirectory(prefix="raudio-serve-") as folder:
            self._folder = folder
            try:
                yield
            finally:
                self._threads.shutdown(wait=False, cancel_futures=True)
                torch.set_num_threads(threads)

    def about(self) -> dict[str, Any]:
        """What is served."""
        bundle, limits = self.predictor.bundle, self.limits
        return {
            "raudio": self.version,
            "bundle": Path(bundle.path).name,
            "trial": bundle.metrics.get("trial"),
            "task": bundle.experiment.task.name,
            "labels": list(self.predictor.labels),
            "sample_rate": self.predictor.sample_rate,
            "window_seconds": self.predictor.clip_seconds,
            "limits": {
                "bytes": limits.bytes,
                "seconds": limits.seconds,
                "timeout": limits.timeout,
            },
        }

    async def answer(self, request: Request, options: Options) -> Any:
        """The prediction for the recording of a request, or a list of those of its parts.

        Raises:
            HTTPException: it can't be used, is too large, too slow, or one too many.
        """
        limits = self.limits
        if self._held >= limits.concurrency + limits.queue:
            raise _busy(f"{self._held} requests are being answered already")
        self._held += 1
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder) as body:
                try:
                    async with asyncio.timeout(limits.timeout):
                        name = await _receive(request, body, limits.bytes)
                except TimeoutError:
                    late = f"the body did not arrive within {limits.timeout:g} s"
                    raise HTTPException(408, late) from None
                return await self._compute(Path(body.name), name, options)
        finally:
            self._held -= 1

    async def _compute(self, path: Path, name: str | None, options: Options) -> Any:
        until = time.monotonic() + self.limits.timeout
        late = _busy(f"there is no answer after {self.limits.timeout:g} s")
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, self._predict, path, name, options, until)
        try:
            # A little longer than the thread gives itself: it should end before its file is gone.
            found, seconds = await asyncio.wait_for(work, self.limits.timeout + 0.5)
        except TimeoutError:
            raise late from None
        self.meters.audio.inc(seconds)
        return found

    def _predict(
        self, path: Path, name: str | None, options: Options, until: float
    ) -> tuple[Any, float]:
        """What is told of a recording, and its seconds. Runs in a thread, and ends it in time."""
        shown = name or "the recording"

        def pieces(rate: int) -> Iterator[NDArray[np.float32]]:
            for piece in blocks(path, rate, PIECE, where=shown):
                _check(until)
                yield piece

        try:
            header = info(path, where=shown)
            seconds = header.frames / header.sample_rate
            self._check_length(shown, seconds, options)
            parts = []
            for part in self.predictor.results([Decoded(shown, pieces)], None, options, workers=0):
                _check(until)
                if part.error is not None:
                    raise HTTPException(422, part.error)
                # The client's name for it, if it has one.
                parts.append(replace(part, name=name or None).mapping())
        except DataError as error:
            raise HTTPException(422, str(error)) from error
        return parts if options.windowed else parts[0], seconds

    def _check_length(self, shown: str, seconds: float, options: Options) -> None:
        if seconds > self.limits.seconds:
            raise HTTPException(
                413, f"{shown} is {seconds:.0f} s long, of {self.limits.seconds:g} s allowed"
            )
        if options.stride is not None and seconds / options.stride > _MOST_PARTS:
            raise HTTPException(
                413,
                f"stride={options.stride:g} makes {seconds / options.stride:.0f} parts of {shown}, "
                f"of {_MOST_PARTS} allowed",
            )


def _check(until: float) -> None:
    """Ends a computation that nobody waits for any more."""
    if time.monotonic() > until:
        raise TimeoutError


def _guard(token: str) -> Any:
    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        shown = "" if given is None else given.credentials
        if not secrets.compare_digest(shown.encode(), token.encode()):
            raise HTTPException(
                401, "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    return check


def _busy(why: str) -> HTTPException:
    return HTTPException(503, f"{why}; ask again later", {"Retry-After": "1"})


# --- a request's body --------------------------------------------------------------------------


async def _receive(request: Request, body: IO[bytes], limit: int) -> str | None:
    """Writes the recording of a request to a file; the name that a form gives it.

    Raises:
        HTTPException: there is none, or more than `limit` bytes.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    request = Request(request.scope, _counted(request.receive, limit))
    name = None
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=10) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(422, "the form has no file: curl -F file=@x.wav sends one")
            name = files[0].filename
            await asyncio.to_thread(shutil.copyfileobj, files[0].file, body)
    else:
        async for chunk in request.stream():
            body.write(chunk)
    body.flush()
    if not body.tell():
        raise HTTPException(422, "there is no recording: the body is empty")
    return name


def _counted(receive: Receive, limit: int) -> Receive:
    """The same messages, until their bodies have more than `limit` bytes."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than the {format_bytes(limit)} allowed")


# --- what becomes of it ------------------------------------------------------------------------


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    reason = _REASONS.get(error.status_code, error.detail)
    return JSONResponse({"error": reason}, error.status_code, error.headers)


async def _misunderstood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = (f"{found['loc'][-1]}={found['input']!r}: {found['msg']}" for found in error.errors())
    return JSONResponse({"error": "; ".join(wrong)}, 422)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


class _Watched:
    """Counts, times and logs every request. Neither queries, headers nor names are logged."""

    def __init__(self, app: ASGIApp, meters: _Meters) -> None:
        self.app = app
        self.meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            # The route as it was declared: what a client writes could be anything.
            found = scope.get("route")
            route = getattr(found, "path", None) or "(none)"
            self.meters.requests.labels(route, status).inc()
            self.meters.seconds.labels(route).observe(seconds)
            client = (scope.get("client") or ("-",))[0]
            log.info("%s %s %s %d %.3f s", client, scope["method"], route, status, seconds)
