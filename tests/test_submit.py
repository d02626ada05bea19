"""What `raudio submit` sends, refuses and shows, without a cluster."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pages
import pytest
from rich.console import Console
from test_live import Screen, begin
from typer.testing import CliRunner

from raudio import progress
from raudio.cli import submit as command
from raudio.cli.main import app
from raudio.cluster import environment, jobs, package, packages, token
from raudio.cluster.secret_files import looks_secret
from raudio.config.schema import Cluster
from raudio.core import registry
from raudio.core.errors import ConfigError
from raudio.records import read_history
from raudio.search.followed import Follower

NOBODY = "http://127.0.0.1:9"


def put(folder: Path, *names: str, content: str = "x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def refused(*arguments: str) -> str:
    """Why a submission is refused, with nothing sent."""
    done = CliRunner().invoke(app, ["submit", "--address", NOBODY, *arguments])
    assert isinstance(done.exception, ConfigError), (done.output, done.exception)
    assert "nobody answers" not in str(done.exception)
    return str(done.exception)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# --- what is sent --------------------------------------------------------------------------------


def test_what_no_job_needs_is_left_out(here: Path) -> None:
    put(here, "mine.py", "conf/a.yaml", "env/pyvenv.cfg", "env/lib/x.py", ".git/config")
    put(here, "c/CACHEDIR.TAG", "c/x", "a/__pycache__/y.pyc", "runs/a/records.jsonl", "runs/notes")
    put(here, ".gitignore", content="*.log\nbuild/\n")
    put(here, "deep/.rayignore", content="big.bin\n")
    put(here, "x.log", "build/lib.py", "deep/big.bin", "deep/small.bin", "skip/me.txt")
    found = package.collect(here, exclude=["skip"])
    assert set(found.files) == {
        *("mine.py", "conf/a.yaml", "runs/notes", ".gitignore"),
        *("deep/.rayignore", "deep/small.bin"),
    }
    assert found.left_out == {
        ".git": "a repository",
        "a/__pycache__": "a cache",
        "c": "a cache",
        "env": "a virtual environment",
        "runs/a": "a run",
    }
    again = package.collect(here, include=["runs/a", "x.log"], exclude=["skip"])
    assert set(again.files) - set(found.files) == {"runs/a/records.jsonl", "x.log"}


def test_little_audio_is_sent_and_much_is_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(here, "birds/owl/1.wav", "birds/owl/2.WAV", "birds/labels.csv", "data/dataset.json")
    put(here, "data/shards/train-00000.parquet", "noise.flac")
    assert len(package.collect(here).files) == 6
    monkeypatch.setattr(package, "_LITTLE_AUDIO", 4)
    few = package.collect(here, include=["noise.flac"])
    assert set(few.files) == {"birds/labels.csv", "noise.flac"}
    assert few.left_out == {
        "birds": "2 files of recordings or datasets",
        "data": "2 files of recordings or datasets",
    }


def test_the_archive_is_the_same_for_the_same_files(here: Path, tmp_path: Path) -> None:
    put(here, "b.py", "a/x.sh")
    (here / "a/x.sh").chmod(0o755)
    told = {"environment": {"TOKEN": "hunter22"}}
    archives = []
    for number in range(2):
        os.utime(here / "b.py", (number, number))
        package.write(package.collect(here), tmp_path / "zip", told)
        archives.append((tmp_path / "zip").read_bytes())
    assert archives[0] == archives[1]
    with zipfile.ZipFile(io.BytesIO(archives[0])) as archive:
        modes = {each.filename: each.external_attr >> 16 for each in archive.infolist()}
        assert json.loads(archive.read(package.JOB)) == told
    assert modes["a/x.sh"] == 0o755
    assert modes[package.JOB] == 0o600  # its values are the submitter's secrets


def test_raudio_goes_along_whole(tmp_path: Path) -> None:
    package.copy_raudio(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "raudio.cli.main", "list", "spaces", "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "cnn_or_crnn" in done.stdout
    assert not list(tmp_path.rglob("__pycache__/*.py"))


def test_too_much_is_refused_with_the_largest(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(here, "big/a.bin", content="x" * (3 << 20))
    put(here, "mine.py")
    monkeypatch.setattr(package, "LIMIT", 2 << 20)
    with pytest.raises(ConfigError, match=r"^3 MiB would be sent, .* 2 at most; .* big \(3 MiB\)"):
        package.check(package.collect(here), ())


# --- secrets -------------------------------------------------------------------------------------

#: Put together here, so that no scanner takes this file for one that holds any.
_SECRETS = {
    ".env": "x",
    "deploy/.env.production": "x",
    "id_rsa": "x",
    "server.pem": "x",
    ".netrc": "x",
    ".aws/config": "x",
    "credentials.json": "x",
    "conf.yaml": "key: AKIA" + "ABCDEFGHIJKLMNOP",
    "settings.ini": "aws_secret_access_key = " + "a1B2" * 10,
    "account.json": '{"private_key": "-----BEGIN ' + 'PRIVATE KEY-----\\nx"}',
    "ssh.txt": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "run.sh": "export WANDB_API_KEY=" + "0a" * 20,
    "load.py": "login('hf_" + "aB3" * 12 + "')",
    "ci.yml": "token: ghp_" + "a1B2" * 9,
}


def test_what_looks_like_a_secret_is_refused_all_in_one_message(here: Path) -> None:
    for name, content in _SECRETS.items():
        put(here, name, content=content)
    put(here, "id_rsa.pub", ".env.example", "keys.py", "monkey.txt", "credentials.py")
    put(here, "docs.md", content="such as AKIA" + "IOSFODNN7EXAMPLE")
    why = refused("--", "search", "run.dir=s3://b/r")
    assert why.startswith("these look like secrets, and nothing was sent: ")
    listed = why.partition("sent: ")[2].partition("; leave")[0].split(", ")
    assert {each.partition(" (")[0] for each in listed} == set(_SECRETS)
    assert "conf.yaml (an AWS access key in line 1)" in listed
    assert not any(content in why for content in _SECRETS.values() if len(content) > 1)
    rest = set(_SECRETS) - {".env"}
    one = refused(*(f"--allow-secret={name}" for name in rest), "search", "run.dir=s3://b/r")
    assert ": .env (its name); leave them out with --exclude PATTERN" in one
    put(here, ".rayignore", content="\n".join(_SECRETS))
    package.check(package.collect(here), ())


def test_nothing_of_raudio_s_own_looks_like_a_secret() -> None:
    found = package.collect(pages.ROOT, exclude=["shared"])
    assert len(found.files) > 300
    assert {n: why for n, f in found.files.items() if (why := looks_secret(n, f))} == {}


@pytest.mark.parametrize(
    "word", ["dataset.path=s3://me:hunter22@bucket/x", "tracking.wandb.project=AKIA" + "A" * 16]
)
def test_no_secret_is_on_a_command_line(word: str) -> None:
    why = refused("search", word, "run.dir=s3://b/r")
    assert why.startswith(f"{word.partition('=')[0]} holds a password or a key")
    assert word.partition("=")[2] not in why


# --- what is refused before anything is sent -----------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("search model=cnn11 run.dir=s3://b/r", "model"),
        ("search optimizer.lr=-1 run.dir=s3://b/r", "optimizer.lr"),
        (
            "search search.sampler=cmaes search.objectives=[accuracy,cost/params] run.dir=/r",
            "cmaes",
        ),
        ("train optimizer.lr=choice(1,2) run.dir=/r", "several values"),
        ("search", "run.dir=None: the run would be written into the job's copy"),
        ("search run.dir=runs/a", "run.dir=runs/a: the run would be written into the job's copy"),
        ("resume runs/a", "run 'runs/a' is on this machine"),
        ("resume s3://b/r optimizer.lr=1", "optimizer.lr cannot change"),
        ("predict /bundle /in.wav --out labels.csv", "--out labels.csv: it would be written"),
        ("submit search", "another command"),
        ("--env NOT_THERE search run.dir=/r", "--env NOT_THERE: there is no such variable"),
        ("--working-dir nowhere search run.dir=/r", "nowhere: no such folder"),
        ("--include nowhere search run.dir=/r", "--include nowhere: there is no such file"),
        ("--stop a search run.dir=/r", "give one of: a COMMAND"),
    ],
)
def test_what_could_not_work_is_not_sent(line: str, why: str) -> None:
    assert why in refused(*line.split())


@pytest.mark.parametrize("line", ["serch run.dir=/r", "search --fast run.dir=/r", "data prepare"])
def test_a_command_that_there_is_not(line: str) -> None:
    done = CliRunner().invoke(app, ["submit", "--address", NOBODY, "--", *line.split()])
    assert done.exit_code == 2
    assert "Usage: " in done.output


def test_data_that_are_not_sent_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(here, "data/dataset.json", "data/shards/train-00000.parquet")
    checked = command._checked(["search", "dataset.path=data", "run.dir=/r"], ".", (), ())
    assert "data/dataset.json" in checked[1].files
    monkeypatch.setattr(package, "_LITTLE_AUDIO", 1)
    why = refused("search", "dataset.path=data", "run.dir=/r")
    assert why == (
        "dataset.path=data: data is not sent; put it into a store, or send it with the job: "
        "--include data"
    )


@pytest.mark.parametrize(
    "line",
    ["search model=cnn run.dir=/r", "cluster check --timeout 9 run.dir=s3://b/r", "list models"],
)
def test_a_folder_that_is_called_like_a_word_is_nothing(here: Path, line: str) -> None:
    for name in ("cnn", "search", "list", "cluster"):
        (here / name).mkdir()
    assert command._checked(line.split(), ".", (), ())[0] == line.split()


def test_files_from_elsewhere_go_along(here: Path, tmp_path: Path) -> None:
    put(tmp_path, "a/plugin.py", "b/plugin.py", content="import raudio\n")
    put(tmp_path, "space.yaml", content="params:\n  optimizer.lr: choice(0.1, 0.2)\n")
    put(here, ".gitignore", content="ignored.py\n")
    put(here, "ignored.py", content="import raudio\n")
    put(tmp_path, "run/records.jsonl", "run/search.yaml", "run/trials/0000/best.pt")
    words, found = command._checked(
        [
            *("raudio", "search", f"plugins=[../a/plugin.py,{tmp_path}/b/plugin.py,ignored.py]"),
            *(f"space={tmp_path}/space.yaml", f"search.prior=[{tmp_path}/run,s3://b/run]"),
            *("run.dir=s3://b/r", "search.time_budget=2m", "optimizer=adam"),
        ],
        *(".", (), ()),
    )
    assert words == [
        "search",
        "plugins=['raudio-files/1/plugin.py', 'raudio-files/2/plugin.py', 'ignored.py']",
        "space='raudio-files/1/space.yaml'",
        "search.prior=['raudio-files/1', 's3://b/run']",
        *("run.dir=s3://b/r", "search.time_budget=2m", "optimizer=adam"),
    ]
    assert found.files["raudio-files/2/plugin.py"] == tmp_path / "b" / "plugin.py"
    assert {"ignored.py", "raudio-files/1/records.jsonl", "raudio-files/1/search.yaml"} <= set(
        found.files
    )


# --- where a session is, and what its processes get ----------------------------------------------


def test_in_a_job_the_cluster_is_the_job_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.address_of(Cluster()) == "local"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert environment.address_of(Cluster()) == "auto"
    assert environment.address_of(Cluster(address="local")) == "local"
    assert environment.address_of(Cluster(address="head:6379")) == "head:6379"


def test_processes_on_other_nodes_get_settings_and_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment.STORE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter22")
    monkeypatch.setattr(environment, "_given", {})
    environment.give({"MY_TOKEN": "t"})
    put(tmp_path, "mine.py", content="import raudio\nMINE = 'mine'\n")
    found = environment.runtime_env({"A": "1"}, [str(tmp_path / "mine.py")])
    assert found["env_vars"] == {"A": "1"}  # which Ray shows and logs
    (tmp_path / "mine.py").unlink()  # as on another node
    for name in ("AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(registry, "_shipped", {})
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    import cloudpickle

    hook = cloudpickle.loads(cloudpickle.dumps(found["worker_process_setup_hook"]))
    before = set(sys.modules)
    hook()
    registry.load_plugins([str(tmp_path / "mine.py")])
    (name,) = set(sys.modules) - before
    assert sys.modules[name].MINE == "mine"
    assert os.environ["AWS_ENDPOINT_URL"] == "http://store"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hunter22"
    assert os.environ["MY_TOKEN"] == "t"


def test_what_a_job_sets_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses a driver that sets the same again."""
    job = {"env_vars": {"A": "job's"}, "worker_process_setup_hook": "its.own"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job}))
    assert environment.runtime_env({"A": "1", "B": "2"}) == {"env_vars": {"B": "2"}}


def test_versions_that_differ_are_named_all() -> None:
    mine = packages.versions()
    assert mine["ray"].startswith("2.")
    packages.compare(mine)
    packages.compare({})
    with pytest.raises(ConfigError, match=r"torch .* instead of 1\.0, nothing none instead of 2"):
        packages.compare({**mine, "torch": "1.0", "nothing": "2"})


def test_the_dashboard_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert jobs.address_given(None) == jobs.DEFAULT
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # no dashboard's
    assert jobs.address_given(None) == jobs.DEFAULT
    monkeypatch.setenv("RAY_ADDRESS", "http://a:1")
    assert jobs.address_given(None) == "http://a:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://b:2")
    assert jobs.address_given(None) == "https://b:2"
    assert jobs.address_given("c:3") == "http://c:3"


def test_nobody_at_an_address() -> None:
    line = ["submit", "--address", NOBODY, "--", "search", "run.dir=/r", "dataset.path=s3://b/d"]
    done = CliRunner().invoke(app, line)
    assert isinstance(done.exception, ConfigError), done.output
    assert str(done.exception) == (
        f"--address {NOBODY}: nobody answers there (Connection refused); give the dashboard of the "
        "cluster's head, http://HEAD:8265, or make a tunnel to it: "
        "ssh -N -L 8265:127.0.0.1:8265 HEAD"
    )


def test_a_token_that_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token.refused().startswith("the cluster wants a token, and none was sent; set RAY_AUTH_")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert token.refused().startswith("the cluster has another token than this machine")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    problem = token.problem(ValueError("RAY_AUTH_TOKEN_PATH is set but: /nowhere"))
    assert problem.startswith("RAY_AUTH_TOKEN_PATH=/nowhere is no file with a token")


# --- following -----------------------------------------------------------------------------------


def test_the_driver_s_records_are_what_a_follower_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(progress.RECORDS_WANTED, "1")
    screen = Screen(tmp_path, terminal=False)
    begin(screen)
    screen.display.say("a note")
    screen.display.show(screen.engine)
    screen.trial(0.5, 0.7, final=True)
    log = screen.text.getvalue()
    assert "completed" not in log.replace('"completed"', "")
    with Follower() as follower:
        for line in log.split("\n"):  # `splitlines` also splits at the mark
            follower.take(line)
        follower.tick()
    assert follower._history.trials == read_history(tmp_path).trials
    shown = capsys.readouterr().out
    assert progress.RECORD_MARK not in shown
    assert "a note" in shown
    assert "0000  completed" in shown


def test_at_a_terminal_a_follower_draws_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.RECORDS_WANTED, "1")
    screen = Screen(tmp_path, terminal=False)
    begin(screen)
    screen.display.show(screen.engine)
    screen.trial(0.5)
    drawn = io.StringIO()
    follower = Follower()
    follower._console = Console(file=drawn, force_terminal=True, width=100, soft_wrap=True)
    with follower:
        for line in (*screen.text.getvalue().split("\n"), "of the job"):
            follower.take(line)
        follower.tick()
    assert "0 of 10 trials" in drawn.getvalue()
    assert "of the job\n" in drawn.getvalue()


LOG = "".join(f"line {number}: {'é' * number}\n" for number in range(40)) + "no newline"


@contextmanager
def dashboard(cut: int) -> Iterator[str]:
    """A dashboard with a job whose log, asked for the first time, is cut off."""
    from aiohttp import web

    asked = 0

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": ""})

    async def details(request: web.Request) -> web.Response:
        if request.match_info["id"] != "a":
            raise web.HTTPNotFound
        over = asked > 1
        found = {"type": "SUBMISSION", "entrypoint": "x", "status": "FAILED" if over else "RUNNING"}
        return web.json_response({**found, "driver_exit_code": 2 if over else None})

    async def tail(request: web.Request) -> Any:
        nonlocal asked
        if request.match_info["id"] != "a":
            raise web.HTTPNotFound
        asked += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        text = LOG[:cut] if asked == 1 else LOG
        for start in range(0, len(text), 50):
            await socket.send_str(text[start : start + 50])
        if asked == 1:
            assert request.transport is not None
            request.transport.abort()
        return socket

    server = web.Application()
    server.add_routes(
        [
            web.get("/api/version", version),
            web.get("/api/jobs/{id}", details),
            web.get("/api/jobs/{id}/logs/tail", tail),
        ]
    )
    loop, runner = asyncio.new_event_loop(), web.AppRunner(server)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 333])
def test_a_log_goes_on_after_a_lost_connection(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(jobs, "_PAUSE", 0.01)
    lines: list[str] = []
    said: list[str] = []
    with dashboard(cut) as address:
        client = jobs.connect(address)
        found = jobs.follow(client, "a", lines.append, said.append)
        assert jobs.wait(client, "a", said.append).driver_exit_code == 2
    assert "\n".join(lines) == LOG
    assert jobs.exit_status(found) == 2


@pytest.mark.slow
def test_a_job_that_is_not_there_is_no_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    said: list[str] = []
    with dashboard(0) as address:
        client = jobs.connect(address)
        for leave in (jobs.stop, lambda *job: jobs.follow(*job, said.append, said.append)):
            with pytest.raises(ConfigError, match=r"there is no job 'nope'; `ray job list`"):
                leave(client, "nope")
    assert said == []


def test_whoever_leaves_a_job_alone_is_told_how_to_find_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    for way in ("follow", "wait"):
        monkeypatch.setattr(jobs, way, leave)
        status = command._until_it_ends(None, NOBODY, "mine", False, shown=way == "follow")
        assert status == 130
        said = capsys.readouterr().err
        assert f"raudio submit --address {NOBODY} --attach mine" in said
        assert f"raudio submit --address {NOBODY} --stop mine" in said


def test_the_job_s_own_file_is_nobody_else_s(here: Path, tmp_path: Path) -> None:
    """As Ray unpacks it."""
    from ray._private.runtime_env.packaging import unzip_package

    package.write(package.collect(here), tmp_path / "a.zip", {})
    unzip_package(str(tmp_path / "a.zip"), str(tmp_path / "out"), False, True)
    assert stat.S_IMODE((tmp_path / "out" / package.JOB).stat().st_mode) == 0o600


def test_what_pip_installs_is_what_is_here() -> None:
    pins = dict(each.split("==") for each in packages.pins())
    assert "ray" not in pins  # a job has its cluster's
    assert pins["torch"] == packages.versions()["torch"]
    assert {"optuna", "hydra-core", "soundfile", "numpy"} <= set(pins)
    assert not {"mlflow-skinny", "pytest"} & set(pins)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("versions", "status", "said"),
    [
        ({}, 0, ""),
        ({"torch": "1.0"}, 2, "error: the job's machine differs from the submitter's: torch "),
    ],
)
def test_a_job_is_its_command_where_versions_agree(
    here: Path, versions: dict[str, str], status: int, said: str
) -> None:
    told = {"environment": {}, "versions": versions, "records": False}
    put(here, package.JOB, content=json.dumps(told))
    done = subprocess.run(
        [sys.executable, "-m", "raudio.cli.job", "list", "models", "--json"],
        env={**os.environ, "PYTHONPATH": str(pages.ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert ("crnn" in done.stdout) == (status == 0)
