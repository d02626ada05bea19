"""Telling Ray that a machine will be taken away: it starts nothing more there, and those who work
on it are told until when."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence

from raudio.cluster.token import check_address
from raudio.core.errors import ConfigError, RaudioError
from raudio.core.units import Seconds

#: How long Ray's control service may take for an answer.
_PATIENCE: Seconds = 5.0


class DrainError(RaudioError):
    """Ray does not answer, or does not know the node, or refuses."""


def drain(
    deadline: float, reason: str, *, address: str | None = None, nodes: Sequence[str] = ()
) -> list[str]:
    """Marks nodes as draining because their machine is pre-empted, as `ray drain-node` does.

    Args:
        deadline: when the machine is gone, in seconds since 1970.
        reason: a few words for Ray's log.
        address: HOST:PORT of the cluster's head; None: $RAY_ADDRESS, else the cluster that was
            started or joined here last.
        nodes: ids of Ray nodes; none: those whose address is this machine's.

    Returns:
        The ids of the nodes.

    Raises:
        ConfigError: the address can be none, or no address is given and no cluster runs here, or
            its token is missing.
        DrainError: the cluster does not answer, has no such node, or refuses.
    """
    import ray
    from ray._private import services
    from ray._private.authentication import authentication_token_setup as tokens
    from ray.core.generated import autoscaler_pb2, gcs_pb2

    try:
        # An address that is given is taken as it is: Ray would replace a loopback one.
        given = os.environ.get("RAY_ADDRESS") or "auto" if address is None else address
        check_address(given, "RAY_ADDRESS" if address is None else "--address")
        where = services.canonicalize_bootstrap_address_or_die(None) if given == "auto" else given
        if given == "auto":  # Ray's rule: no token is sent by itself to a host that was named
            tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        tokens.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(_first_line(error)) from error
    _check_answers(where)
    try:
        client = ray._raylet.GcsClient(address=where)
        found = client.get_all_node_info(timeout=_PATIENCE)
        alive = {
            node_id.hex(): node.node_manager_address
            for node_id, node in found.items()
            if node.state == gcs_pb2.GcsNodeInfo.ALIVE
        }
        wanted = list(nodes) or [node for node, host in alive.items() if _is_here(host)]
        missing = [node for node in wanted if node not in alive]
        if missing or not wanted:
            what = f"node {missing[0]}" if missing else "node on this machine"
            raise DrainError(f"the cluster at {where} has no {what} that is alive")
        for node in wanted:
            accepted, why = client.drain_node(
                node, autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION, reason, round(deadline * 1000)
            )
            if not accepted:
                raise DrainError(f"Ray refuses to drain node {node}: {why}")
    except ray.exceptions.RayError as error:
        raise DrainError(f"the cluster at {where} does not answer: {_first_line(error)}") from error
    return wanted


def check_node_id(text: str) -> None:
    """
    Raises:
        ConfigError: the text is not the id of a Ray node.
    """
    if not re.fullmatch("[0-9a-f]{56}", text):
        raise ConfigError(
            f"--node-id {text!r} is not the id of a Ray node: 56 digits of 0-9a-f, as "
            "`ray list nodes` shows them"
        )


def parse_deadline(text: str, now: float | None = None) -> float:
    """Seconds since 1970 of "25s" (from now) or of a time such as 2026-03-01T12:00:00Z.

    Raises:
        ConfigError: it is neither.
    """
    from datetime import datetime

    from raudio.core.units import parse_seconds

    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise ValueError
        return when.timestamp()
    except ValueError:
        pass
    try:
        return (time.time() if now is None else now) + parse_seconds(text)
    except ConfigError as error:
        raise ConfigError(
            f"--deadline {text!r} is no time; write 25s (from now) or 2026-03-01T12:00:00Z"
        ) from error


def _check_answers(where: str) -> None:
    """Ray's client would try for most of a minute."""
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        raise DrainError(f"the cluster at {where} does not answer: {error}") from error


def _is_here(host: str) -> bool:
    """Whether an address is this machine's: then a socket can be bound to it. (A container beside
    Ray's shares its network, and sees none of its processes.)"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
