"""docs/data.md is true: its commands are run as they stand there, on small data; its tables and
the settings that it names are those of the code.

Searches are planned and not run. What needs a store, the web or a cluster is parsed, and no more.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
import tarfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pages
import pytest
from pages import DATA
from typer.testing import CliRunner

from raudio.audio.augment import Mixing
from raudio.cli.main import app
from raudio.config import schema
from raudio.config.axes import text
from raudio.config.setting import settings_in
from raudio.core.components import AUGMENTATIONS
from raudio.data import inspect, recipe
from raudio.data.sources.columns import ROLES, recognise

TAPE_SECONDS = 3.0


# --- tables and settings -------------------------------------------------------------------------


def test_the_table_of_augmentations_is_the_registry_s() -> None:
    rows = pages.table(DATA, "name | does")
    assert [row[0] for row in rows] == list(schema.augmentations())
    for name, does, on, p_of, own in rows:
        component: Any = AUGMENTATIONS.get(name)
        settings = [field.name for field in fields(schema.augmentations()[name])]
        assert does == AUGMENTATIONS.about(name)
        assert on == component.stage, name
        assert p_of == ("batch" if issubclass(component, Mixing) else "clip"), name
        assert ["p", *filter(None, own.split(", "))] == settings, name


def test_the_settings_roles_and_recipes_of_the_page_are_the_code_s() -> None:
    settings = settings_in(schema.Dataset, "dataset.")
    rows = pages.table(DATA, "setting")
    assert {row[0]: row[1] for row in rows} == {k: text(s.default) for k, s in settings.items()}
    for key, _, does in rows:
        assert all(choice in does for choice in settings[key].meta.choices), key
    roles = {role: tuple(names.split(", ")) for role, names in pages.table(DATA, "role")}
    assert roles == ROLES
    assert f"{', '.join(recipe.names())}." in DATA.read_text()


def test_the_table_of_problems_has_what_the_checks_can_find() -> None:
    folder = Path(inspect.__file__).parent
    code = "\n".join(path.read_text() for path in folder.glob("*.py"))
    found = dict.fromkeys(re.findall(r'look\.problem\(\s*"([a-z-]+)"', code), "warning")
    for severity, name in re.findall(r'of_names\(\s*(ERROR|WARNING),\s*f?"([a-z-]+)', code):
        found[name] = severity.lower()
    listed = {
        name.replace("WHAT", ""): severity
        for names, severity, _ in pages.table(DATA, "problem")
        for name in names.split(", ")
    }
    assert listed == found
    assert len(found) > 25


def test_every_setting_that_the_page_names_is_one_and_may_have_that_value() -> None:
    pages.check_settings(DATA, at_least=26)


def test_the_files_that_the_page_points_to_are_there() -> None:
    assert pages.dead_links(DATA) == []
    assert pages.dead_links(pages.README) == []


# --- commands ------------------------------------------------------------------------------------


def write_table(path: Path, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns.split(","), *rows])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page's reader has."""
    folder = tmp_path_factory.mktemp("page")
    birds = {"owl": 300, "wren": 1800}
    clips = [(f"{bird}_{n}.wav", bird, n) for n in range(16) for bird in birds]
    for name, bird, n in clips:
        pages.tone(folder / "recordings" / name, birds[bird], n)
        pages.tone(folder / "birds" / bird / f"{n}.wav", birds[bird], 100 + n)
        pages.tone(folder / "audiofolder" / name, birds[bird], 200 + n)
    speakers = ("anna", "ben", "cleo", "dan", "eve", "finn", "gil", "hans")
    rows = [(f, b, speakers[n % 8], f"2024-{5 + n // 8:02d}-{31 - n}") for f, b, n in clips]
    write_table(folder / "labels.csv", "file,label,speaker,recorded_at", rows)
    write_table(folder / "field.csv", "tape,species,speaker", [row[:3] for row in rows])
    write_table(folder / "audiofolder" / "metadata.csv", "file_name,label", [r[:2] for r in rows])
    tags = [(name, f"{bird};{('night', 'day')[n % 2]}") for name, bird, n in clips]
    write_table(folder / "tags.csv", "file,labels", tags)

    tapes = [f"tape_{n}.wav" for n in range(12)]
    for n, tape in enumerate(tapes):
        pages.tone(folder / "tapes" / tape, 700, 300 + n, TAPE_SECONDS)
    segments = [(t, *part) for t in tapes for part in ((0.0, 1.5, "owl"), (1.5, 3.0, "wren"))]
    write_table(folder / "segments.csv", "file,start,end,label", segments)
    events = [(t, *part) for t in tapes for part in ((0.2, 0.9, "owl"), (0.5, 2.0, "wren"))]
    write_table(folder / "events.csv", "file,onset,offset,event_label", events)

    for tar in range(2):
        (folder / "tars").mkdir(exist_ok=True)
        with tarfile.open(folder / "tars" / f"birds-00{tar}.tar", "w") as out:
            for name, bird, n in clips[tar::2]:
                content = (folder / "birds" / bird / f"{n}.wav").read_bytes()
                for file, data in ((name, content), (f"{name[:-4]}.cls", bird.encode())):
                    info = tarfile.TarInfo(file)
                    info.size = len(data)
                    out.addfile(info, io.BytesIO(data))
    write_cuts(folder, tapes)
    for name, hertz in (("some", 300), ("other", 1800)):
        pages.tone(folder / f"{name}.wav", hertz, 1000)
    return folder


def write_cuts(folder: Path, tapes: Sequence[str]) -> None:
    """A manifest of lhotse, and a Shar folder, of the recordings as they are."""
    lhotse = pytest.importorskip("lhotse")
    paths = [folder / "tapes" / tape for tape in tapes]
    recordings = [lhotse.Recording.from_file(path) for path in paths]
    segments = [
        lhotse.SupervisionSegment(
            f"s{n}", each.id, 0.0, TAPE_SECONDS, speaker=("anna", "ben")[n % 2]
        )
        for n, each in enumerate(recordings)
    ]
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings(recordings),
        lhotse.SupervisionSet.from_segments(segments),
    ).to_eager()
    (folder / "corpus").mkdir()
    (folder / "shar").mkdir()
    with gzip.open(folder / "corpus" / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(cut.to_dict()) + "\n" for cut in cuts)
    cuts.to_shar(folder / "shar", fields={"recording": "flac"}, shard_size=6)


def test_the_columns_that_the_page_shows_are_those_of_the_files(here: Path) -> None:
    kinds = {"labels": "clips", "segments": "segments", "events": "events", "tags": "clips"}
    for name, kind in kinds.items():
        columns, first = (here / f"{name}.csv").read_text().splitlines()[:2]
        assert f"`{columns}`" in DATA.read_text(), name
        assert recognise(name, columns.split(","), {}).kind == kind, name
    assert f"`{first}`" in DATA.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_of_the_page_works(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    lines = pages.commands(DATA)
    assert all(line.startswith("raudio ") for line in lines)
    parsed = 0
    for line in lines:
        arguments = shlex.split(line)[1:]
        pages.parse(arguments)
        if pages.is_out_of_reach(arguments):
            parsed += 1
            if arguments[:2] == ["data", "fetch"]:
                assert arguments[2] in recipe.names(), line
            continue
        if arguments[0] == "search":
            arguments[0] = "plan"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    assert (len(lines), parsed) > (20, 0)
    assert parsed <= len(lines) // 5
    made = {path.parent.name for path in here.glob("data/*/dataset.json")}
    assert made >= {"birds", "mine", "segments", "events", "tags", "tars", "cuts", "shar", "time"}
