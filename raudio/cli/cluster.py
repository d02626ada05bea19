"""`raudio cluster`: cluster files, what a cluster has, and the notice of spot machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from raudio.cluster.check import Finding, Wanted
    from raudio.cluster.notices import Notice
    from raudio.config.schema import Configuration

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
    """Fills in a cluster file, checks it and the command in it, and prints it.

    The files: local, aws-spot and gcp-spot for `ray up`, kuberay-raycluster and kuberay-rayjob for
    `kubectl apply`, slurm for `sbatch`.

    Example: raudio cluster render gcp-spot --out cluster.yaml project=mine max_gpu=4
    service_account=NAME@mine.iam.gserviceaccount.com
    vm_image=projects/deeplearning-platform-release/global/images/family/FAMILY
    """
    import shlex

    from raudio.cli.submit import check_command
    from raudio.cluster import render as files
    from raudio.core.errors import ConfigError
    from raudio.core.storage import write_atomic

    if name is None:
        _list_files()
        return
    text = files.render(name, settings or [])
    given = dict(setting.split("=", 1) for setting in settings or [])
    if "command" in given:
        check_command(shlex.split(given["command"]))
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise ConfigError(f"--out {out} is there already; give another, or remove it")
    try:
        write_atomic(out, text)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from error


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
def check(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="as for `raudio search`")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="the cluster, as cluster.address: auto or HOST:PORT"),
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="for each step; who takes longer does not answer")
    ] = "30s",
    json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Says whether a cluster has what an experiment needs; exit status 1 if it has not.

    Every node that is there is asked: versions as here, clocks, space, the dataset readable, the
    run's storage writable and the same for all, GPUs that PyTorch sees. Then the cluster: nodes
    that stay for what steers trials, a token. What is written is removed again.

    Example: raudio cluster check --address auto dataset.path=s3://bucket/fsdd
    run.dir=s3://bucket/runs/a
    """
    from json import dumps
    from tempfile import TemporaryDirectory

    from raudio.cluster.check import OK, WRONG, judge
    from raudio.cluster.session import session
    from raudio.cluster.survey import survey
    from raudio.core.units import parse_seconds
    from raudio.search.space_file import resolve

    seconds = parse_seconds(timeout, "--timeout")
    asked = [*(overrides or []), *([] if address is None else [f"cluster.address={address}"])]
    configuration, _, _ = resolve(asked)
    wanted = _wanted(configuration)
    with (
        TemporaryDirectory(prefix="raudio-check-") as folder,
        session(
            configuration.cluster,
            Path(folder) / "ray.log",
            plugins=configuration.experiment.plugins,
        ) as capacity,
    ):
        found = survey(wanted, capacity.growth, seconds)
    findings = judge(found, wanted)
    good = not any(finding.state == WRONG for finding in findings)
    if json:
        nodes = [
            {"id": node.id, "name": node.name, "error": node.error, **node.facts, "skew": node.skew}
            for node in found.nodes
        ]
        lines = [vars(finding) for finding in findings]
        print(dumps({"cluster": capacity.where, "ok": good, "checks": lines, "nodes": nodes}))
    else:
        _show(capacity.where, findings)
        if good and all(finding.state == OK for finding in findings):
            print("nothing is wrong")
    if not good:
        raise typer.Exit(1)


def _wanted(configuration: Configuration) -> Wanted:
    """What an experiment needs of a cluster."""
    from raudio.cluster.check import Wanted
    from raudio.core.storage import absolute, exists, is_remote, join
    from raudio.data.manifest import MANIFEST, Manifest

    experiment = configuration.experiment
    given = experiment.dataset.path
    files: list[tuple[str, bytes]] = []
    private: list[str] = []
    for path in [given] if isinstance(given, str) else given:
        if path == "synth" or not (is_remote(path) or exists(join(path, MANIFEST))):
            private.append("the embedded data" if path == "synth" else path)
            continue
        folder = absolute(path)
        manifest = Manifest.read(folder)
        files.append((join(folder, MANIFEST), b"{"))
        files += [(join(folder, shard.file), b"PAR1") for shard in manifest.shards[:1]]
    return Wanted(
        files=files,
        private=" and ".join(private) or None,
        run=absolute(configuration.run.dir or "runs/check"),
        gpus=experiment.resources.gpus or 0,
        workers=experiment.resources.max_workers,
    )


def _show(where: str, findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title=where, title_justify="left")
    for column in ("Check", "Result", "", "Cure"):
        table.add_column(column, overflow="fold")
    styles = {"ok": "green", "hint": "yellow", "wrong": "bold red"}
    for finding in findings:
        state = Text(finding.state, styles[finding.state])
        table.add_row(finding.check, state, Text(finding.found), Text(finding.cure))
    Console(highlight=False).print(table)


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

    from raudio.cluster.drain import check_node_id
    from raudio.cluster.notices import ENDPOINT, PROVIDERS, Service
    from raudio.cluster.spot import watch
    from raudio.cluster.token import check_address
    from raudio.core.errors import ConfigError, unknown
    from raudio.core.units import parse_seconds

    if provider not in ("auto", *PROVIDERS):
        raise ConfigError(f"--provider: {unknown('provider', provider, ('auto', *PROVIDERS))}")
    seconds = parse_seconds(interval, "--interval")
    if node_id:
        check_node_id(node_id)
    if address is not None:
        check_address(address, "--address")
    service = Service(ENDPOINT if endpoint is None else endpoint)
    signal.signal(signal.SIGTERM, _end)
    try:
        notice = watch(
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

    drained: list[Notice] = []

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
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if done.returncode:
            return said
        if notice not in drained:
            typer.echo(said, err=True)
            drained.append(notice)
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
