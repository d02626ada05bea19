"""An ASGI application as a Ray Serve deployment: replicas on a cluster behind one address."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raudio.cluster.session import session
from raudio.config.schema import Cluster
from raudio.core.errors import ConfigError
from raudio.core.extras import require

#: The application's name in Ray Serve.
NAME = "raudio"


@contextlib.contextmanager
def deployed(
    build: Callable[[], Any],
    cluster: Cluster,
    *,
    host: str,
    port: int,
    replicas: int,
    cpus: float,
    gpus: float,
    at_once: int,
    queue: int,
    timeout: float,
    plugins: Sequence[str] = (),
) -> Iterator[None]:
    """Replicas of an application for the length of a `with` block, when they answer.

    Args:
        build: makes the application, in a replica's process; it is pickled.
        cluster: where.
        host, port: that Ray's proxy listens at.
        replicas: how many.
        cpus, gpus: of each.
        at_once: requests that a replica is given at once.
        queue: requests that wait besides; further ones get 503 from the proxy.
        timeout: seconds after which the proxy gives up a request.
        plugins: Python files that the replicas are to find.

    Raises:
        ConfigError: Ray Serve is missing, the replicas don't fit, or they don't start.
    """
    serve = require("ray.serve", "serve-ray")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    from ray.serve.config import HTTPOptions

    with tempfile.TemporaryDirectory(prefix="raudio-serve-") as folder:
        log = Path(folder) / "ray.log"
        with session(cluster, log, plugins=plugins) as capacity:
            if replicas * cpus > capacity.cpus:  # Ray would wait for them, and say nothing
                raise ConfigError(
                    f"--replicas {replicas} with --concurrency {cpus:g} take {replicas * cpus:g} "
                    f"CPUs, and {capacity.where} has {capacity.cpus:g}; give fewer"
                )

            def make() -> Any:  # Ray wants a plain function
                return build()

            deployment = serve.deployment(
                num_replicas=replicas,
                ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
                max_ongoing_requests=at_once,
                max_queued_requests=queue,
            )(serve.ingress(make)())
            try:
                serve.start(
                    http_options=HTTPOptions(host=host, port=port, request_timeout_s=timeout),
                )
                serve.run(deployment.bind(), name=NAME, route_prefix="/")
                yield
            except RuntimeError as error:
                raise ConfigError(f"the replicas do not start: {error}") from error
            finally:
                serve.shutdown()
