"""docs/search.md is true: its commands are run as they stand there; its tables, spaces and settings
are those of the code.

Searches are planned and resumed runs are checked, and neither is run: a run of made-up trials is
what the other commands read.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pages
import pytest
import yaml
from pages import SEARCH
from typer.testing import CliRunner

from raudio import records
from raudio.cli.main import app
from raudio.config import axes, compose, schema
from raudio.config.axes import text
from raudio.config.setting import settings_in
from raudio.records import RecordWriter
from raudio.search import failures, folder, space_file
from raudio.search.job import check

#: What a page may call a part of a run beside the names in `records`.
_IN_A_RUN = {"ray.log", "prior/", "bundle/", "tracking/", "trials/ID/"}


def test_the_settings_of_the_page_are_the_code_s() -> None:
    known = settings_in(schema.Search, "search.")
    rows = pages.table(SEARCH, "setting")
    assert len(rows) >= 10
    for key, default, does in rows:
        assert key in known, key
        assert default == text(known[key].default), key
        assert all(choice in does for choice in known[key].meta.choices), key


def test_every_setting_that_the_page_names_is_one() -> None:
    pages.check_settings(SEARCH, at_least=20)


def test_the_page_names_what_is_in_a_run() -> None:
    named = {name for row in pages.table(SEARCH, "in the run") for name in row[0].split(", ")}
    files = {value for key, value in vars(records).items() if key.endswith(("_YAML", "_JSON"))}
    assert named == (files - {records.EXPERIMENT_YAML}) | _IN_A_RUN | {
        records.RECORDS,
        records.JOURNAL,
    }


def test_the_page_names_every_kind_of_failure() -> None:
    named = [value for key, value in vars(failures).items() if key.isupper()]
    kinds = {kind for kind in named if isinstance(kind, str)} - {records.FAILED, records.STOPPED}
    assert {kind for kind, _ in pages.table(SEARCH, "kind")} == kinds


def test_the_grammar_of_the_page_is_the_code_s() -> None:
    rows = pages.table(SEARCH, "written")
    assert len(rows) >= 5
    for written, _ in rows:
        assert isinstance(compose.parse_axis("key", written), axes.Axis), written


def test_the_spaces_of_the_page_can_be_loaded(tmp_path: Path) -> None:
    spaces = pages.blocks(SEARCH, "yaml")
    assert spaces
    for number, content in enumerate(spaces):
        path = tmp_path / f"{number}.yaml"
        path.write_text(content)
        space = space_file.load(str(path))
        assert len(space.params) >= len(yaml.safe_load(content)["params"])


def test_the_files_that_the_page_points_to_are_there() -> None:
    assert pages.dead_links(SEARCH) == []


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page's reader has: `birds`, and the runs that the page reads."""
    here = tmp_path_factory.mktemp("page")
    for label, hertz in (("owl", 300), ("wren", 1800)):
        for number in range(16):
            pages.tone(here / "birds" / label / f"{number}.wav", hertz, number)
    job = check(["search.trials=4", "training.epochs=3"], echo=lambda line: None)
    for name in runs_read():
        folder.make_run(job, here / name)
        make_up_trials(here / name)
    return here


def runs_read() -> set[str]:
    """The runs that commands of the page read."""
    lines = [shlex.split(line)[1:] for line in pages.commands(SEARCH)]
    return {
        word
        for verb, *words in lines
        if verb not in ("search", "plan")
        for word in words
        if word.startswith("runs/")
    }


def make_up_trials(run: Path) -> None:
    """Records of a search that has ended: ever better trials, every third of them pruned."""
    metric = "valid/accuracy"
    with RecordWriter(run / records.RECORDS) as out:
        out.append(
            "search_start", version="0", metric=metric, mode="max", trials=30, rungs=[1],
            time_budget=None, resumed=False,
        )  # fmt: skip
        for number in range(30):
            name = records.trial_id(number)
            params = {"model.width": (8, 16)[number % 2], "optimizer.lr": 1e-4 * 1.2**number}
            out.append("trial_start", id=name, params=params, signature=name)
            last = 1 if number % 3 == 2 else 3
            for epoch in range(1, last + 1):
                metrics = {metric: number / 40 + epoch / 20}
                out.append(
                    "report", id=name, epoch=epoch, metrics=metrics, seconds=1.0, final=epoch == 3
                )
            state = records.COMPLETED if last == 3 else records.PRUNED
            out.append("trial_end", id=name, state=state, kind=None, reason=None, seconds=3.0)
        out.append("search_end", state=records.COMPLETED, reason=None)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_of_the_page_works(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    lines = pages.commands(SEARCH)
    assert len(lines) > 10
    for line in lines:
        arguments = [re.sub(r"^run\.dir=.*", "run.dir=runs/new", a) for a in shlex.split(line)]
        assert arguments.pop(0) == "raudio"
        pages.parse(arguments)
        if arguments[0] == "resume":
            folder.recorded_job(Path(arguments[1]), arguments[2:])
            continue
        if pages.is_out_of_reach(arguments):
            continue
        if arguments[0] == "search":
            arguments[0] = "plan"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
