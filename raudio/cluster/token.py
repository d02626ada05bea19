"""Whether a cluster answers, and takes this machine's token: what is wrong, in one sentence.

Ray itself tells a token that is refused from a cluster that is not there only in its own log.
"""

from __future__ import annotations

import os
import re
import socket

from raudio.core.errors import ConfigError

#: Where Ray looks for a token, in this order.
PLACES = "RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
#: Seconds that a cluster has to take a connection, and again to answer.
_PATIENCE = 10.0
#: HOST:PORT; an address of IPv6 is in brackets.
_HOST_PORT = re.compile(r"([\w.-]+|\[[\da-fA-F:.%]+\]):\d+", re.ASCII)


def check_address(address: str, setting: str = "cluster.address") -> None:
    """Refuses what can be no cluster's address.

    Raises:
        ConfigError: it is neither "auto" nor HOST:PORT.
    """
    if address != "auto" and not _HOST_PORT.fullmatch(address):
        raise ConfigError(
            f"{setting}={address}: HOST:PORT of a Ray head is wanted here, or auto, or local; the "
            "port is 6379 unless `ray start --head` says another (8265 is the dashboard, for "
            "`raudio submit`)"
        )


def answers(address: str) -> None:
    """Returns when a cluster answers at an address, and takes this machine's token.

    Args:
        address: "auto" or HOST:PORT.

    Raises:
        ConfigError: it does not, and why.
    """
    import grpc
    from ray._private import services
    from ray._private.authentication import authentication_token_setup as tokens
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    from ray.exceptions import AuthenticationError

    where = f"cluster.address={address}"
    check_address(address)
    try:
        if address == "auto":  # Ray's rule: no token is sent by itself to a host that was named
            tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        tokens.ensure_token_if_auth_enabled(create_token_if_missing=False)
        found = services.canonicalize_bootstrap_address_or_die(address)
        where += f" ({found})" if address == "auto" else ""
        # First without gRPC, which has a language of its own for what fails here.
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
        with init_grpc_channel(found) as channel:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=_PATIENCE)
    except AuthenticationError as error:
        raise ConfigError(f"{where}: {problem(error)}") from error
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise ConfigError(f"{where}: {refused()}") from error
        late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        reason = f"nothing comes in {_PATIENCE:g} s" if late else "something else does"
        raise ConfigError(_nobody(where, reason)) from error
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(_nobody(where, getattr(error, "strerror", None) or str(error))) from error


def _nobody(where: str, reason: str) -> str:
    reason = reason.strip().partition(". ")[0].rstrip(".")
    return (
        f"{where}: no Ray cluster answers there ({reason}); start one with `ray start --head`, "
        "give the HOST:PORT of a head that this machine reaches, or local to use this machine"
    )


def refused() -> str:
    """Why a cluster does not take what it was sent, and the cure."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return (
            "the cluster wants a token, and none was sent; set RAY_AUTH_MODE=token, and have the "
            f"cluster's token in {PLACES}"
        )
    return f"the cluster has another token than this machine; have the cluster's in {PLACES}"


def problem(error: Exception) -> str:
    """An `AuthenticationError` of Ray as one sentence; it was raised here, before anything was
    sent."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and path in str(error):
        return f"RAY_AUTH_TOKEN_PATH={path} is no file with a token; have a token in {PLACES}"
    return f"RAY_AUTH_MODE=token, and there is no token; have the cluster's in {PLACES}"
