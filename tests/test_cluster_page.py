"""docs/cluster.md is true: its commands are ones, with settings that could work; its figures are
those of the code, and of Ray. None of them is run: they need a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pages
import pytest
from pages import CLUSTER

from raudio.cli import submit
from raudio.cluster import jobs, package
from raudio.search.folder import check_changes
from raudio.search.job import check_settings


def lines(language: str = "") -> list[list[str]]:
    """Commands, word by word; a line that ends in a backslash goes on."""
    blocks = [block.replace("\\\n", " ") for block in pages.blocks(CLUSTER, language)]
    return [
        shlex.split(line, comments=True)
        for block in blocks
        for line in block.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def could_work(words: list[str]) -> None:
    pages.parse(words)
    verb = words[0]
    if verb in ("search", "train", "plan"):
        check_settings([word for word in words[1:] if not word.startswith("-")])
    if verb == "resume":
        check_changes(words[2:])
    if verb == "submit" and "--" in words:
        sent, _ = submit._checked(words[words.index("--") + 1 :], ".", (), ())
        could_work(sent)


@pytest.mark.slow
def test_every_command_of_the_page_could_work() -> None:
    found = [words for words in lines() if words[0] == "raudio"]
    assert len(found) >= 10
    assert found == lines()
    for words in found:
        could_work(words[1:])


@pytest.mark.slow
def test_ray_has_the_commands_of_the_page() -> None:
    from ray.scripts.scripts import cli

    found = [words for words in lines("bash") if words[0] == "ray"]
    assert found
    for words in found:
        command: click.Command = cli
        context, rest = click.Context(command), words[1:]
        while isinstance(command, click.Group):
            _, found_command, rest = command.resolve_command(context, rest)
            assert found_command is not None, words
            command = found_command
        command.make_context(words[1], list(rest))
        if "--" in words:
            assert words[words.index("--") + 1] == "raudio"
            could_work(words[words.index("--") + 2 :])


def test_every_setting_that_the_page_names_is_one() -> None:
    pages.check_settings(CLUSTER, at_least=8)


def test_the_figures_of_the_page() -> None:
    from ray._private.runtime_env import packaging
    from ray.dashboard.modules.job.job_supervisor import JobSupervisor

    text = " ".join(CLUSTER.read_text().split())
    assert packaging.GCS_STORAGE_MAX_SIZE == package.LIMIT
    assert f"Ray takes {package.LIMIT >> 20} MiB at most" in text
    assert f"more than {package._LITTLE_AUDIO // 10**6} MB" in text
    assert (jobs.GRACE, JobSupervisor.DEFAULT_RAY_JOB_STOP_WAIT_TIME_S) == (120, 3)
    assert "It has two minutes for that. A job of plain `ray job submit` has three seconds" in text


def test_the_files_that_the_page_points_to_are_there() -> None:
    assert pages.dead_links(CLUSTER) == []
