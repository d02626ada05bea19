"""`raudio serve`: a bundle as an HTTP service."""

from __future__ import annotations

from typing import Annotated

import typer

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
) -> None:
    """Answers HTTP requests with predictions: POST /predict a recording, get its label.

    GET /docs describes it all. Where the environment variable RAUDIO_TOKEN is set, requests must
    show it as `Authorization: Bearer TOKEN`. Ctrl-C or SIGTERM ends it, when what has arrived is
    answered.

    Example: raudio serve bundles/fsdd --port 8000
    """
    import os
    import sys

    import raudio
    from raudio.core.errors import ConfigError
    from raudio.core.extras import require
    from raudio.core.units import parse_bytes

    for module in _NEEDS:
        require(module, "serve")
    secret = os.environ.get(TOKEN) or None
    if token and secret is None:
        raise ConfigError(f"--token: the environment variable {TOKEN} is not set; export it first")
    size = parse_bytes(max_bytes, "--max-bytes")

    from raudio.config.validate import use_plugins
    from raudio.core.machine import cpus
    from raudio.export import server
    from raudio.export.predictor import load
    from raudio.export.service import Limits, build_app

    use_plugins(plugin or ())
    limits = Limits(size, max_seconds, timeout, concurrency or cpus(), queue)
    app = build_app(load(bundle, device, format), limits, secret, raudio.__version__)
    with server.listen(host, port) as listening:
        where = server.url_of(listening)
        if secret is None and not server.is_loopback(listening):
            print(
                f"warning: anybody who reaches {where} may ask: {TOKEN} is not set, and {host} is "
                "not only this machine's",
                file=sys.stderr,
            )
        _log_to_stderr()
        ready = f"serving {bundle} at {where} (how to ask: {where}/docs)"
        server.run(app, listening, grace=timeout, ready=lambda: print(ready, file=sys.stderr))


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("raudio.serve").setLevel(logging.INFO)
