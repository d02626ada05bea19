"""`raudio serve`: a bundle as an HTTP service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fastapi import FastAPI

    from raudio.export.service import Limits

#: Environment variable of the bearer token. An option would show it to every user of the machine.
TOKEN = "RAUDIO_TOKEN"
_NEEDS = ("fastapi", "fastapi_offline", "python_multipart", "prometheus_client", "uvicorn")


def serve(
    bundle: Annotated[str, typer.Argument(help="folder of the bundle")],
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one", min=0, max=65535)] = 8000,
    token: Annotated[
        bool, typer.Option("--token", help=f"don't start without {TOKEN} (see below)")
    ] = False,
    max_bytes: Annotated[str, typer.Option(help="of a request's body", metavar="SIZE")] = "64MB",
    max_seconds: Annotated[float, typer.Option(help="of a recording", min=0.001)] = 3600.0,
    timeout: Annotated[
        float, typer.Option(help="seconds until a request is answered, or refused", min=0.1)
    ] = 60.0,
    concurrency: Annotated[
        int | None, typer.Option(help="predictions at once; as many as there are CPUs", min=1)
    ] = None,
    queue: Annotated[int, typer.Option(help="requests that may wait besides", min=0)] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one")] = "auto",
    format: Annotated[
        str | None,
        typer.Option("--format", help="what computes: safetensors, onnx or torch-export"),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="with Ray Serve, in replicas")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="of --ray: local starts Ray here, auto or HOST:PORT is a cluster; none: in a Ray "
            "job the job's cluster, else local"
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(help="with --ray: how many", min=1)] = 1,
) -> None:
    """Answers HTTP requests with predictions: POST /predict a recording, get its label.

    GET /docs describes it all. Where the environment variable RAUDIO_TOKEN is set, requests must
    show it as `Authorization: Bearer TOKEN`. Ctrl-C or SIGTERM ends it, when what has arrived is
    answered.

    Example: raudio serve bundles/fsdd --port 8000
    """
    import os
    import sys

    from raudio.core.errors import ConfigError
    from raudio.core.extras import require
    from raudio.core.units import parse_bytes

    for module in _NEEDS:
        require(module, "serve")
    secret = os.environ.get(TOKEN) or None
    if token and secret is None:
        raise ConfigError(f"--token: the environment variable {TOKEN} is not set; export it first")
    size = parse_bytes(max_bytes, "--max-bytes")

    from functools import partial

    from raudio.core.machine import cpus
    from raudio.core.storage import is_remote
    from raudio.export import server
    from raudio.export.service import Limits

    limits = Limits(size, max_seconds, timeout, concurrency or cpus(), queue)
    place = bundle if is_remote(bundle) else os.path.abspath(bundle)  # replicas run elsewhere
    plugins = [os.path.abspath(file) for file in plugin or []]
    build = partial(_app, place, device, format, plugins, limits, secret is not None)
    with server.listen(host, port) as listening:
        where = server.url_of(listening)
        if secret is None and not server.is_loopback(listening):
            print(
                f"warning: anybody who reaches {where} may ask: {TOKEN} is not set, and {host} is "
                "not only this machine's",
                file=sys.stderr,
            )
        ready = f"serving {bundle} at {where} (how to ask: {where}/docs)"
        if not ray:
            app = build()
            _log_to_stderr()
            server.run(app, listening, grace=timeout, ready=lambda: print(ready, file=sys.stderr))
            return
        host, port = listening.getsockname()[:2]
    from raudio.cluster.serving import deployed
    from raudio.config.schema import Cluster
    from raudio.export.bundle import read_bundle

    read_bundle(bundle)  # what is wrong with it is said before Ray starts
    replicated = deployed(
        build,
        Cluster(address=address),
        host=host,
        port=port,
        replicas=replicas,
        cpus=limits.concurrency,
        gpus=int(device.startswith("cuda")),
        at_once=limits.concurrency + limits.queue,
        queue=limits.queue,
        timeout=2 * timeout + 1,
    )
    with replicated, server.until_told() as told:  # in this order: Ray takes SIGTERM for itself
        print(ready, file=sys.stderr)
        told.wait()


def _app(
    bundle: str,
    device: str,
    format: str | None,
    plugins: list[str],
    limits: Limits,
    guarded: bool,
) -> FastAPI:
    """The service, here or in a replica, which finds the token in its own environment: Ray would
    keep what it is handed."""
    import os

    import raudio
    from raudio.config.validate import use_plugins
    from raudio.core.errors import ConfigError
    from raudio.export.predictor import load
    from raudio.export.service import build_app

    token = os.environ.get(TOKEN) or None
    if guarded and token is None:
        raise ConfigError(f"{TOKEN} is not set where the replica runs; start Ray with it")
    use_plugins(plugins)
    return build_app(load(bundle, device, format), limits, token, raudio.__version__)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("raudio.serve").setLevel(logging.INFO)
