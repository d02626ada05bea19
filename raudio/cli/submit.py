"""`raudio submit`: a command line as a job of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from raudio.cluster.package import Package


class Packages(StrEnum):
    """What is done about the versions of packages on the cluster."""

    check = "check"
    install = "install"
    ignore = "ignore"


def submit(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="of raudio, as it would run here"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="dashboard of the cluster; none: RAY_API_SERVER_ADDRESS, else "
            "http://127.0.0.1:8265",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="show the search until it ends; Ctrl-C leaves it alone")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until it ends; show nothing")] = False,
    attach: Annotated[
        str | None, typer.Option(metavar="ID", help="instead: follow a job that was submitted")
    ] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="ID", help="instead: stop a job; its run can go on")
    ] = None,
    working_dir: Annotated[
        str, typer.Option(metavar="FOLDER", help="whose files the job has; and where it runs")
    ] = ".",
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="send this too; repeatable")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="do not send this, as in .gitignore; repeatable"),
    ] = None,
    allow_secret: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="send it although it looks like a secret; repeatable"),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="variable of yours that the job gets; repeatable"),
    ] = None,
    packages: Annotated[
        Packages,
        typer.Option(help="check that the cluster has your versions, or install them there"),
    ] = Packages.check,
    name: Annotated[str | None, typer.Option(metavar="ID", help="of the job; none: Ray's")] = None,
    cpus: Annotated[
        float | None,
        typer.Option(min=0, help="for the driver, on any node; none: on the head, beside Ray"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the outcome as JSON")] = False,
) -> None:
    """Run a raudio command as a job of a Ray cluster, and leave it there.

    The working directory goes along, without what .gitignore and .rayignore name, virtual
    environments, runs and large amounts of audio; so do plugins, spaces and points from elsewhere.
    What looks like a secret is refused: secrets go by --env NAME.

    With --follow and --wait the exit status is the command's own.

    Example: raudio submit --address http://HEAD:8265 --follow -- search
    dataset.path=s3://bucket/fsdd run.dir=s3://bucket/runs/a
    """
    from raudio.cluster import jobs
    from raudio.core.errors import ConfigError

    if sum(map(bool, (command, attach, stop))) != 1:
        raise ConfigError("give one of: a COMMAND to run, --attach ID, --stop ID")
    place = jobs.address_given(address)
    if stop:
        _stop(place, stop, json)
    if attach:
        raise typer.Exit(_until_it_ends(jobs.connect(place), place, attach, json, shown=True))
    words, package = _checked(command or [], working_dir, include or (), exclude or ())
    told = _told(env or (), packages, records=follow)
    _check_package(package, allow_secret or ())
    client = jobs.connect(place)
    pip = _pins(client) if packages is Packages.install else None
    _echo(_sent(package))
    import shlex

    job = jobs.submit(
        client,
        shlex.join(["python", "-m", "raudio.cli.job", *words]),
        package,
        told=told,
        job_id=name,
        cpus=cpus,
        pip=pip,
    )
    if follow or wait:
        _echo(f"job {job}")
        raise typer.Exit(_until_it_ends(client, place, job, json, shown=follow))
    _print_job(place, job, json)


def _stop(place: str, job: str, as_json: bool) -> None:
    from json import dumps

    from raudio.cluster import jobs

    running = jobs.stop(jobs.connect(place), job)
    if as_json:
        print(dumps({"job": job, "stopping": running}))
    else:
        print(f"{job} is told to stop" if running else f"{job} has ended already")
    raise typer.Exit


def _print_job(place: str, job: str, as_json: bool) -> None:
    from json import dumps

    if as_json:
        print(dumps({"job": job, "address": place}))
        return
    print(job)
    _echo(f"follow it:  raudio submit --address {place} --attach {job}")
    _echo(f"stop it:    raudio submit --address {place} --stop {job}")


def _echo(text: str) -> None:
    typer.echo(text, err=True)


# --- before anything is sent ---------------------------------------------------------------------


def _checked(
    command: Sequence[str], working_dir: str, include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[str], Package]:
    """The command as the job is to run it, and the files that it takes along.

    Raises:
        ConfigError, or click's UsageError: it could not work there.
    """
    from raudio.cluster import package as packages

    words = check_command(command)
    _check_settings(words)
    folder = Path(working_dir).resolve()
    package = packages.collect(folder, include=include, exclude=exclude)
    words = [_sent_along(word, package, folder) for word in words]
    _check_places(words, package, folder)
    return words, package


def check_command(command: Sequence[str]) -> list[str]:
    """What raudio is told in a command line that is to run elsewhere.

    Raises:
        ConfigError, or click's UsageError: it holds a secret, or there is no such command.
    """
    from raudio.cluster.secret_files import secret_in
    from raudio.core.errors import ConfigError
    from raudio.core.secrets import has_credentials

    words = list(command[1:] if command[0] == "raudio" else command)
    for word in words:
        if has_credentials(word) or secret_in(word.encode()):
            key = word.partition("=")[0] if "=" in word else "an argument"
            raise ConfigError(
                f"{key} holds a password or a key, and everybody who sees the cluster's jobs sees "
                "their commands; give it in a variable: --env NAME"
            )
    _parse(words)
    return words


def _parse(words: Sequence[str]) -> None:
    """Refuses a command, or an option, that there is not."""
    from raudio.cli.main import app
    from raudio.core.errors import ConfigError

    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="raudio")
    rest = list(words)
    if not rest or rest[0] == "submit":
        raise ConfigError("a job runs another command of raudio, such as search or train")
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(context.info_name, rest, parent=context.parent)


def _check_settings(words: Sequence[str]) -> None:
    """Refuses settings as `raudio plan` does, as far as they need neither data nor machines."""
    from raudio.core.errors import ConfigError
    from raudio.core.storage import is_remote

    verb, overrides = words[0], [word for word in words[1:] if not word.startswith("-")]
    if verb == "resume":
        from raudio.search.folder import check_changes

        check_changes(overrides[1:])
        if not is_remote(overrides[0]) and not overrides[0].startswith("/"):
            raise ConfigError(
                f"run {overrides[0]!r} is on this machine; a job goes on with a run in a store, or "
                "on a disk that the nodes share, given by its whole path"
            )
    elif verb in ("search", "train"):
        from raudio.search.job import check_settings

        run = check_settings(overrides, single=verb == "train").run.dir
        if run is None or not (is_remote(run) or run.startswith(("/", "~"))):
            raise ConfigError(
                f"run.dir={run}: the run would be written into the job's copy of the working "
                "directory, and be gone with it; give run.dir=s3://BUCKET/RUN, or the whole path "
                "of a folder on a disk that the nodes share"
            )


def _sent_along(word: str, package: Package, folder: Path) -> str:
    """An override, with the local files that it names taken along and named as the job finds them:
    plugins, a space, points and runs to learn from."""
    from raudio.config import compose
    from raudio.config.axes import quoted

    key, equals, _ = word.partition("=")
    if not equals or key not in ("plugins", "space", "search.points", "search.prior"):
        return word
    value = compose.values_of([word]).get(key)
    if isinstance(value, str):
        found = _taken(value, package, folder)
        return word if found == value else f"{key}={quoted(found)}"
    if not isinstance(value, list | tuple):
        return word
    named = [_taken(str(each), package, folder) for each in value]
    return word if named == [str(each) for each in value] else compose.override(key, named)


def _taken(text: str, package: Package, folder: Path) -> str:
    """A file, or a run, by its name in the package; another text as it is."""
    from raudio.records import RECORDS

    path = Path(text).expanduser().resolve()
    if path.is_file():
        return package.add(path, folder)
    if (path / RECORDS).is_file():
        names = [package.add(each, folder) for each in sorted(path.iterdir()) if each.is_file()]
        return names[0].rpartition("/")[0]
    return text


def _check_places(words: Sequence[str], package: Package, folder: Path) -> None:
    """Refuses what is in the working directory and not sent, and results that would be lost."""
    from itertools import pairwise

    from raudio.core.errors import ConfigError
    from raudio.core.storage import is_remote

    for before, word in pairwise(words):
        out = word.removeprefix("--out=") if word.startswith("--out=") else word
        if (before == "--out" or out != word) and not (is_remote(out) or out.startswith("/")):
            raise ConfigError(
                f"--out {out}: it would be written into the job's copy of the working directory, "
                "and be gone with it; give the whole path of a file on a disk that the nodes share"
            )
        for text in _read(word):
            path = (folder / text).resolve()
            if not path.exists() or not path.is_relative_to(folder) or path == folder:
                continue
            name = path.relative_to(folder).as_posix()
            if not any(each == name or each.startswith(f"{name}/") for each in package.files):
                raise ConfigError(
                    f"{word}: {name} is not sent; put it into a store, or send it with the job: "
                    f"--include {name}"
                )


def _read(word: str) -> list[str]:
    """What a word names that may be a file which the command reads."""
    from raudio.config import compose

    key, equals, _ = word.partition("=")
    if not equals:
        return [word]
    if key != "dataset.path" and not key.endswith(".source"):
        return []
    value = compose.values_of([word]).get(key)
    return [str(each) for each in (value if isinstance(value, list | tuple) else [value])]


def _told(names: Sequence[str], packages: Packages, *, records: bool) -> dict[str, Any]:
    """What the job is told; values of variables among it."""
    import os

    from raudio.cluster import environment
    from raudio.cluster.packages import versions
    from raudio.core.errors import ConfigError

    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(f"--env {missing[0]}: there is no such variable in your environment")
    given = {*names, *(name for name in environment.PLAIN if name in os.environ)}
    return {
        "environment": {name: os.environ[name] for name in sorted(given)},
        "versions": versions() if packages is Packages.check else {},
        "records": records,
    }


def _check_package(package: Package, allowed: Sequence[str]) -> None:
    from raudio.cluster.package import check

    check(package, {Path(each).as_posix() for each in allowed})


def _pins(client: Any) -> list[str]:
    import ray

    from raudio.cluster import jobs
    from raudio.cluster.packages import pins
    from raudio.core.errors import ConfigError

    there = jobs.ray_version(client)
    if there != ray.__version__:
        raise ConfigError(
            f"the cluster has Ray {there}, and this machine {ray.__version__}: a job cannot "
            f"install another; pip install ray=={there} here, or --packages ignore"
        )
    return pins()


def _sent(package: Package) -> str:
    count = len(package.files)
    text = f"sending {count} file{'' if count == 1 else 's'}, {package.bytes / 1e6:.1f} MB"
    if package.left_out:
        listed = ", ".join(f"{name} ({why})" for name, why in sorted(package.left_out.items()))
        text += f"; left out: {listed}"
    return text


# --- afterwards ----------------------------------------------------------------------------------


def _until_it_ends(client: Any, place: str, job: str, as_json: bool, *, shown: bool) -> int:
    """The exit status of a job's command, when it has ended."""
    from json import dumps

    from raudio.cluster import jobs

    try:
        details = _follow(client, job, as_json) if shown else jobs.wait(client, job, _echo)
    except KeyboardInterrupt:
        _echo(f"\n{job} goes on by itself")
        _echo(f"follow it:  raudio submit --address {place} --attach {job}")
        _echo(f"stop it:    raudio submit --address {place} --stop {job}")
        return 130
    status = jobs.exit_status(details)
    state = str(details.status.value).lower()
    if as_json:
        found = {"job": job, "address": place, "state": state, "exit_status": status}
        print(dumps(found))
    elif status:
        why = "" if details.driver_exit_code is not None else f": {details.message}"
        _echo(f"job {job} {state}, exit status {status}{why}")
    return status


def _follow(client: Any, job: str, as_json: bool) -> Any:
    """Draws the search at a terminal, as if it ran here; lines where there is none."""
    from raudio.cluster import jobs
    from raudio.search.followed import Follower

    with Follower(to_stderr=as_json) as follower:
        return jobs.follow(client, job, follower.take, _echo, follower.tick)
