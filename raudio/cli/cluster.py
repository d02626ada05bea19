"""`raudio cluster`: cluster files, what a cluster has, and the notice of spot machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from raudio.cluster.spot import Notice

app = typer.Typer(
    help="Make cluster files, check a cluster, watch for a spot machine's end.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="of the cluster's head (its Ray port); none: $RAY_ADDRESS, else the cluster running "
        "here",
    ),
]
_NodeId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="of a Ray node; none: those of this machine"),
]


@app.command()
def render(
    name: Annotated[
        str | None, typer.Argument(help="of a cluster file; none: lists them and their keys")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="what to fill in")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="must be new; none: standard output")
    ] = None,
) -> None:
    """Fills in a cluster file, checks it against Ray's schema and prints it.

    The files: local, aws-spot and gcp-spot for `ray up`, kuberay-raycluster and kuberay-rayjob for
    `kubectl apply`, slurm for `sbatch`.

    Example: raudio cluster render gcp-spot --out cluster.yaml project=mine max_gpu=4
    service_account=NAME@mine.iam.gserviceaccount.com
    vm_image=projects/deeplearning-platform-release/global/images/family/FAMILY
    """
    from raudio.cluster import render as files
    from raudio.core.errors import ConfigError
    from raudio.core.storage import write_atomic

    if name is None:
        _list_files()
        return
    text = files.render(name, settings or [])
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise ConfigError(f"--out {out} is there already; give another, or remove it")
    write_atomic(out, text)


def _list_files() -> None:
    from rich.console import Console
    from rich.table import Table

    from raudio.cluster.render import names, read

    console = Console(highlight=False, markup=False)
    for name, path in names().items():
        template = read(path)
        console.print(f"{name}: {template.about}", soft_wrap=True)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for key in template.keys.values():
            table.add_row(
                f"  {key.name}", "must be given" if key.default is None else key.default, key.help
            )
        console.print(table)


@app.command()
def watch_spot(
    provider: Annotated[
        str, typer.Option(help="aws, gcp or azure; auto: whose metadata service answers")
    ] = "auto",
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="of the metadata service, if not the usual")
    ] = None,
    address: _Address = None,
    node_id: _NodeId = None,
    interval: Annotated[
        str, typer.Option(metavar="TIME", help="from one question to the next, such as 5s")
    ] = "5s",
    once: Annotated[
        bool, typer.Option("--once", help="ask one time; exit status 1 if nothing answers")
    ] = False,
) -> None:
    """Waits for the notice that this spot machine will be taken away, and drains it in Ray.

    It runs on every worker node, beside Ray, until it is ended. On the notice Ray starts nothing
    more on this machine, and the trials on it are told until when they may save and move on.

    Example: raudio cluster watch-spot --provider aws --interval 5s
    """
    import signal

    from raudio.cluster import spot
    from raudio.cluster.drain import check_node_id
    from raudio.core.errors import ConfigError, unknown
    from raudio.core.units import parse_seconds

    if provider not in ("auto", *spot.PROVIDERS):
        raise ConfigError(f"--provider: {unknown('provider', provider, ('auto', *spot.PROVIDERS))}")
    seconds = parse_seconds(interval, "--interval")
    if node_id:
        check_node_id(node_id)
    service = spot.Service(endpoint or spot.ENDPOINT)
    signal.signal(signal.SIGTERM, _end)
    try:
        notice = spot.watch(
            provider, service, _drainer(address, node_id), _log, interval=seconds, once=once
        )
    except KeyboardInterrupt:
        return
    if notice is None:
        _log("no notice")


def _end(*_: object) -> None:
    raise SystemExit(0)


def _log(line: str) -> None:
    from datetime import UTC, datetime

    typer.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", err=True)


def _drainer(address: str | None, node_id: str | None) -> Callable[[Notice], str | None]:
    """Drains by a process of its own: Ray's client ends the process that it is in when the head is
    away for a minute, and the watcher must outlive that."""
    import subprocess
    import sys
    from datetime import UTC, datetime

    def drain(notice: Notice) -> str | None:
        when = datetime.fromtimestamp(notice.deadline, UTC).isoformat()
        command = [sys.executable, "-m", "raudio.cli.main", "cluster", "drain"]
        command += ["--deadline", when, "--reason", notice.reason]
        command += ["--address", address] if address else []
        command += ["--node-id", node_id] if node_id else []
        try:
            done = subprocess.run(command, timeout=20, check=False, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return "Ray does not answer"
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        if done.returncode:
            return said[-1]
        typer.echo(said[-1], err=True)
        return None

    return drain


@app.command()
def drain(
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="until the machine is gone: 25s, or a time in ISO")
    ] = "30s",
    reason: Annotated[str, typer.Option(help="for Ray's log")] = "the machine is taken away",
    address: _Address = None,
    node_id: _NodeId = None,
) -> None:
    """Tells Ray that this machine will be taken away, as `watch-spot` does on a notice.

    For machines whose end is announced in another way: a Kubernetes pod's preStop hook, a batch
    system's signal.

    Example: raudio cluster drain --deadline 25s
    """
    from raudio.cluster import drain as draining

    until = draining.parse_deadline(deadline)  # from now, not from when Ray is imported
    if node_id:
        draining.check_node_id(node_id)
    nodes = draining.drain(until, reason, address=address, nodes=[node_id] if node_id else [])
    _log(f"drained until the deadline: Ray node {', '.join(nodes)}")
