"""What processes on other nodes get of their driver's: the store's settings, what a submitted job
was given, and the files of plugins.

Ray's own way, `env_vars` of a runtime environment, shows values to whoever lists jobs and writes
them into the logs of every node. So they go as the arguments of a function that each process calls
when it starts, which Ray keeps with the functions of tasks, and neither shows nor logs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raudio.config.schema import Cluster
from raudio.core.errors import ConfigError
from raudio.core.registry import ship

#: Set by Ray for what a job runs.
_OF_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"

#: Variables without secrets that say where a store is: a submitted job gets the submitter's.
PLAIN = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "AWS_NO_SIGN_REQUEST",
)

#: How a store is found and entered, for a process that has to see it as its driver does.
STORE = (
    *PLAIN,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_CA_BUNDLE",
    "GOOGLE_CLOUD_PROJECT",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
)

#: What the job that this process drives was given when it was submitted.
_given: dict[str, str] = {}


def in_job() -> bool:
    """Whether this process was started by a Ray job."""
    return _OF_JOB in os.environ


def address_of(settings: Cluster) -> str:
    """Where `settings` run: "local", "auto" or HOST:PORT.

    Raises:
        ConfigError: the address is empty, as that of a variable that is not set is: it is not to be
            taken for none, which would run here.
    """
    if settings.address is not None and not settings.address.strip():
        raise ConfigError(
            f"cluster.address={settings.address!r} is empty; give auto, the HOST:PORT of a "
            "cluster's head, or local to use this machine"
        )
    return settings.address or ("auto" if in_job() else "local")


def give(environment: Mapping[str, str]) -> None:
    """Sets variables here, and in the processes of sessions on a cluster."""
    os.environ.update(environment)
    _given.update(environment)


def runtime_env(env_vars: Mapping[str, str], plugins: Iterable[str] = ()) -> dict[str, Any]:
    """The runtime environment of a driver's processes on a cluster.

    Args:
        env_vars: what must be set before a process starts; what the job sets itself is left out.
        plugins: Python files that other nodes may not have.
    """
    of_job = _runtime_env_of_job()
    env_vars = {k: v for k, v in env_vars.items() if k not in of_job.get("env_vars", {})}
    found: dict[str, Any] = {"env_vars": env_vars}
    if "worker_process_setup_hook" not in of_job:  # a job has one at most
        store = {name: os.environ[name] for name in STORE if name in os.environ}
        environment = {**store, **_given}
        files = [Path(file).expanduser().resolve() for file in plugins]
        sources = {str(file): file.read_text(encoding="utf-8") for file in files}

        def raudio_environment() -> None:
            os.environ.update(environment)
            ship(sources)

        found["worker_process_setup_hook"] = raudio_environment
    return found


def _runtime_env_of_job() -> dict[str, Any]:
    return dict(json.loads(os.environ.get(_OF_JOB, "{}")).get("runtime_env") or {})
