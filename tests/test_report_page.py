"""The report's page and its Markdown against the records, and against hostile data."""

from __future__ import annotations

import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from made_run import EPOCHS, RUNGS, add_bundle, make_run

from raudio import records
from raudio.cli.main import app
from raudio.config.schema import Search
from raudio.config.validate import dump_yaml
from raudio.core.errors import RunError
from raudio.records import RecordWriter, RunLock
from raudio.report import analysis, clips, summary
from raudio.report.markdown import summarise
from raudio.report.markup import tag
from raudio.report.page import page
from raudio.report.run import Run, read_run
from raudio.report.svg import Scale, short

VOID = {"meta", "link", "img"}
HOSTILE = "<script>alert(1)</script>\"'&|`\u202e\x00\ud800"


class Node:
    """An element of a parsed page."""

    def __init__(self, name: str, attributes: dict[str, str | None], parent: Node | None) -> None:
        self.name, self.attributes, self.parent = name, attributes, parent
        self.children: list[Node] = []
        self.text = ""

    @property
    def words(self) -> str:
        """All text inside, in order of the elements."""
        return self.text + "".join(child.words for child in self.children)

    def all(self, name: str, **wanted: str) -> list[Node]:
        """Elements inside by name, class or id."""
        found = []
        for child in self.children:
            if child.name == name and all(
                value in (child.attributes.get(key.rstrip("_")) or "").split()
                for key, value in wanted.items()
            ):
                found.append(child)
            found += child.all(name, **wanted)
        return found

    def one(self, name: str, **wanted: str) -> Node:
        """The only such element."""
        (found,) = self.all(name, **wanted)
        return found


class Parser(HTMLParser):
    """Builds the tree, and refuses what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.at = Node("", {}, None)
        self.feed(text)
        self.close()
        assert self.at is self.root, f"<{self.at.name}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs), self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_endtag(self, tag: str) -> None:
        assert self.at.name == tag, f"</{tag}> closes <{self.at.name}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.text += data


def parse(text: str) -> Node:
    """A page as a tree."""
    return Parser(text).root


def table(root: Node, caption: str) -> list[list[str]]:
    """The rows of the table with a caption, heads first."""
    found = [t for t in root.all("table") if t.one("caption").words.startswith(caption)]
    assert len(found) == 1, caption
    rows = found[0].all("tr")
    return [[cell.words for cell in row.children] for row in rows]


def marks(root: Node, name: str) -> int:
    """Marked points of a plot."""
    groups = root.one("svg", id=name).all("g", class_="marks")
    return sum(int(group.attributes["data-count"] or 0) for group in groups)


def start(writer: RecordWriter, **fields: Any) -> None:
    writer.append(
        "search_start",
        **{
            "version": "0.1.0",
            "metric": "valid/accuracy",
            "mode": "max",
            "trials": 1,
            "time_budget": None,
            "rungs": [],
            "resumed": False,
            **fields,
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = make_run(tmp_path_factory.mktemp("runs") / "made", 60)
    best = read_run(folder).best
    assert best is not None
    add_bundle(folder, best.id)
    return read_run(folder)


@pytest.fixture(scope="module")
def root(run: Run) -> Node:
    return parse(page(run))


# --- against the records -----------------------------------------------------------------------


def test_every_trial_with_a_value_is_a_point_of_the_history(run: Run, root: Node) -> None:
    having = [
        trial
        for trial in run.history.trials.values()
        if trial.state != "failed" and trial.value("valid/accuracy", "max") is not None
    ]
    assert 0 < len(having) < 60, "some have failed"
    for name in ("history-epochs", "history-seconds", "pareto"):
        assert marks(root, name) == len(having)
    assert marks(root, "curves") == len([t for t in run.history.trials.values() if t.reports])


def test_a_point_lies_at_what_was_spent_when_its_value_was_reached(run: Run, root: Node) -> None:
    """The axis begins at 0 and ends 4 % after the last report; the frame is 388 units wide."""
    for axis in ("epochs", "seconds"):
        expected = []
        for trial in run.valued:
            best = max(trial.reports, key=lambda report: report.metrics["valid/accuracy"])
            (point,) = (p for p in run.points if (p.trial, p.epoch) == (trial.id, best.epoch))
            last = run.points[-1]
            spent = getattr(point, axis) / (1.04 * getattr(last, axis))
            expected.append(58 + 388 * spent)
        drawn = [
            float(re.match(r"M([\d.]+),", path.attributes["d"] or "")[1])  # type: ignore[index]
            for group in root.one("svg", id=f"history-{axis}").all("g", class_="marks")
            for path in group.all("path")
        ]
        assert sorted(drawn) == pytest.approx(sorted(expected), abs=0.06)


def test_the_best_value_is_told_as_the_records_have_it(run: Run, root: Node) -> None:
    values = [
        (report.metrics["valid/accuracy"], trial.id, report.epoch)
        for trial in run.history.trials.values()
        if trial.state != "failed"
        for report in trial.reports
    ]
    value, trial, epoch = max(values)
    tile = root.one("dl", class_="tiles").all("div")[0]
    assert [node.words for node in tile.children] == [
        "best valid/accuracy",
        f"{value:.4g}",
        f"trial {trial}, epoch {epoch}",
    ]
    assert f"The best is trial {trial}: valid/accuracy {value:.4g} at epoch {epoch}." in (
        root.one("div", class_="lead").words
    )
    # The line of the best so far is the running maximum over all reports as they came.
    best, rising = -1.0, []
    for point in run.points:
        if run.history.trials[point.trial].state != "failed" and (point.value or 0) > best:
            best = point.value or 0
            rising.append((point.trial, point.epoch))
    assert [(p.trial, p.epoch) for p in analysis.incumbents(run)] == rising


def test_the_leaderboard_is_the_ranking(run: Run, root: Node) -> None:
    heads, *rows = table(root, "All 60 trials")
    ranked = run.history.ranked()
    assert [row[0] for row in rows] == [trial.id for trial in ranked]
    assert heads[:6] == ["trial", "place", "valid/accuracy", "state", "epochs", "time"]
    lr = heads.index("lr")
    assert rows[0][lr] == f"{ranked[0].params['optimizer.lr']:.4g}"
    assert {row[3] for row in rows} == {"completed", "pruned", "failed"}
    assert all(
        (row[heads.index("rnn_units")] == "–") == (row[heads.index("model")] == "cnn")
        for row in rows
    )


def test_rungs_are_counted_as_the_engine_s_scheduler_counts(tmp_path: Path) -> None:
    from raudio.search.scheduler import Scheduler

    asha = Scheduler(Search(reduction_factor=3), "max", EPOCHS, 1)
    assert asha.milestones() == list(RUNGS)
    run = read_run(make_run(tmp_path / "run", 40, goes_on=asha.report))
    known = {epoch: count for epoch, count in asha.rungs() if epoch < EPOCHS}
    assert {rung.epoch: rung.arrived for rung in analysis.rungs(run.history)} == known
    pruned = sum(trial.state == "pruned" for trial in run.history.trials.values())
    assert sum(rung.stopped for rung in analysis.rungs(run.history)) == pruned > 0
    words = parse(page(run)).one("svg", id="rungs").one("desc").words
    assert f"epoch 3: {known[3]}" in words


def test_the_rungs_of_several_brackets_are_told_apart(tmp_path: Path) -> None:
    from raudio.search.scheduler import Scheduler

    many = Scheduler(Search(scheduler="hyperband", reduction_factor=3), "max", EPOCHS, 1)
    run = read_run(
        make_run(
            tmp_path / "run", 60, goes_on=many.report, brackets=many.brackets, bracket=many.bracket
        )
    )
    for place, epochs in enumerate(many.brackets):
        known = [(epoch, count) for epoch, count in many.rungs(place) if epoch < EPOCHS]
        found = [rung for rung in analysis.rungs(run.history) if rung.bracket == place]
        assert [(rung.epoch, rung.arrived) for rung in found] == known
        assert [rung.epoch for rung in found] == epochs
    assert {r.bracket for r in analysis.rungs(run.history) if r.stopped} == {0, 1}
    for trial in run.history.trials.values():
        passed = sum(trial.epochs > epoch for epoch in many.brackets[trial.bracket])
        assert analysis.rung_reached(run.history, trial) == passed
    words = parse(page(run)).one("svg", id="rungs").one("desc").words
    assert f"2: epoch 3: {many.rungs(1)[0][1]}, " in words


def test_costs_add_up(run: Run, root: Node) -> None:
    rows = table(root, "Trials' time")
    assert rows[-1][1:3] == ["60", str(len(run.points))]
    loops = sum(cost.loop_seconds for cost in analysis.costs(run.history))
    assert loops == pytest.approx(sum(t.loop_seconds for t in run.history.trials.values()))


def test_nothing_beats_a_trial_of_the_front(run: Run) -> None:
    front = analysis.front(run)
    known = [(analysis.epoch_seconds(t) or 0, -(run.value(t) or 0), t.id) for t in run.valued]
    expected = {
        one[2]
        for one in known
        if not any(
            other[0] <= one[0] and other[1] <= one[1] and other[:2] != one[:2] for other in known
        )
    }
    assert {trial.id for trial in front} == expected
    assert len(front) > 1


def test_importances_find_what_decides_and_say_what_chance_gives(tmp_path: Path) -> None:
    """A made-up trial's value follows from its learning rate and hardly from anything else."""
    for mode in ("max", "min"):
        run = read_run(make_run(tmp_path / mode, 120, mode=mode))
        found = analysis.importances(run)
        assert found[0].setting == "optimizer.lr"
        assert found[0].share > 0.5 > found[0].chance
        assert sum(one.share for one in found) == pytest.approx(1)
        weak = [one for one in found if one.setting in ("model.dropout", "training.batch_size")]
        assert all(one.share < 0.2 for one in weak)


@pytest.mark.parametrize(("mode", "decides"), [("max", "first"), ("min", "second")])
def test_importance_is_about_the_best_trials(tmp_path: Path, mode: str, decides: str) -> None:
    """`first` tells the highest quarter of the values from the rest, `second` the lowest."""
    with RecordWriter(tmp_path / records.RECORDS) as writer:
        start(writer, trials=80, mode=mode)
        for number in range(80):
            name, quarter = records.trial_id(number), number % 4
            params = {
                "first": "x" if quarter == 3 else "y",
                "second": "x" if quarter == 0 else "y",
                "third": ["x", "y"][number // 4 % 2],
            }
            writer.append("trial_start", id=name, params=params, signature="s")
            metrics = {"valid/accuracy": quarter + number / 1000}
            writer.append("report", id=name, epoch=1, metrics=metrics, seconds=1.0, final=True)
            writer.append("trial_end", id=name, state="completed", seconds=1.0)
    found = analysis.importances(read_run(tmp_path))
    assert found[0].setting == decides
    assert found[-1].setting == "third"


def test_too_few_trials_have_no_importances_and_the_page_says_how_many_it_takes(
    tmp_path: Path,
) -> None:
    run = read_run(make_run(tmp_path / "run", analysis.FEWEST_TRIALS - 1, failing=0))
    assert analysis.importances(run) == []
    root = parse(page(run))
    assert "need 20 trials" in root.one("section", id="settings").words
    assert not root.all("svg", id="importances")
    assert not root.all("svg", id="contour")
    assert root.all("svg", id="parallel")


def test_the_confusion_matrix_is_the_bundle_s(run: Run, root: Node) -> None:
    counts = np.array(run.bundle["details"]["confusion"])
    drawing = root.one("svg", id="confusion")
    told = [title.words for title in drawing.all("title")]
    assert f"down right: {counts[0, 0]} ({counts[0, 0] / counts[0].sum():.0%})" in told
    assert len([rect for rect in drawing.all("rect") if rect.all("title")]) == (counts > 0).sum()
    _, first, *_ = table(root, "Classes on the valid split")
    precision = counts[0, 0] / counts[:, 0].sum()
    assert first[:3] == ["down", str(counts[0].sum()), f"{precision:.1%}"]
    assert len(table(root, "Clips of the valid split")) == 1 + 3


def test_a_class_has_an_interval_where_there_is_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 5, failing=0)
    best = read_run(folder).best
    assert best is not None
    add_bundle(folder, best.id, ("a", "b", "c"))
    metrics = json.loads((folder / "bundle" / "metrics.json").read_text())
    metrics["details"]["confusion"] = [[30, 10, 0], [10, 30, 0], [0, 0, 0]]
    (folder / "bundle" / "metrics.json").write_text(json.dumps(metrics))
    rows = table(parse(page(read_run(folder))), "Classes on the valid split")
    assert rows[1][:5] == ["a", "40", "75.0%", "75.0%", "75.0%"]
    assert re.fullmatch(r"6[3-7]% to 8[2-6]%", rows[1][5])
    assert rows[3] == ["c", "0", "–", "–", "–", "–"]


def test_failures_that_differ_in_numbers_are_one(run: Run, root: Node) -> None:
    failed = [t for t in run.history.trials.values() if t.state == "failed"]
    assert len({trial.reason for trial in failed}) > 1
    (article,) = root.one("section", id="failures").all("article")
    assert f"non-finite loss: {len(failed)} trial" in article.one("h3").words
    assert all(trial.id in article.words for trial in failed)


def test_a_trial_that_is_not_the_default_is_told_apart(tmp_path: Path) -> None:
    from raudio.config.compose import experiment_for

    folder = make_run(tmp_path / "run", 5, failing=0)
    run = read_run(folder)
    assert run.best is not None
    params = {"model": "crnn", "model.width": 8, "optimizer.lr": 0.5}
    run.best.params = params
    place = records.trial_folder(folder, run.best.id) / records.EXPERIMENT_YAML
    place.parent.mkdir(parents=True)
    given = {**params, "training.epochs": 9, "dataset.sample_rate": 8000}
    place.write_text(dump_yaml(experiment_for((), given)))
    run.search["overrides"].append("training.epochs=9")
    found = {d.setting: (d.default, d.value, d.origin) for d in analysis.differences(run, run.best)}
    assert found == {
        "model": ("cnn", "crnn", "searched"),
        "model.width": ("16", "8", "searched"),
        "optimizer.lr": ("0.001", "0.5", "searched"),
        "training.epochs": ("12", "9", "given"),
        "dataset.sample_rate": ("none", "8000", "from the data"),
    }


def test_the_commands_do_it_again(run: Run) -> None:
    assert run.best is not None
    assert summary.search_command(run) == "raudio search search.trials=60"
    words = summary.train_command(run, run.best).split()
    assert words[:2] == ["raudio", "train"]
    assert dict(word.split("=") for word in words[2:]) == {
        key: str(value) for key, value in run.best.params.items()
    }


# --- the page itself ---------------------------------------------------------------------------


def test_the_page_needs_nothing_else(run: Run) -> None:
    text = page(run)
    root = parse(text)
    for node in root.all("link") + root.all("img") + root.all("script") + root.all("audio"):
        assert (node.attributes.get("src") or node.attributes.get("href") or "data:").startswith(
            "data:"
        )
    assert not re.search(r"https?://|@import|url\(", text)
    (policy,) = (m for m in root.all("meta") if m.attributes.get("http-equiv"))
    assert (policy.attributes["content"] or "").startswith("default-src 'none'; ")


def test_what_a_screen_reader_needs(root: Node) -> None:
    assert root.one("html").attributes["lang"] == "en"
    assert root.one("head").one("title").words == "made · raudio report"
    for name in ("header", "nav", "main", "footer", "h1"):
        root.one(name)
    levels = [int(n.name[1]) for n in _walk(root) if re.fullmatch(r"h[1-6]", n.name)]
    assert all(later - former <= 1 for former, later in itertools.pairwise(levels))
    ids = [node.attributes["id"] for node in _walk(root) if node.attributes.get("id")]
    assert len(ids) == len(set(ids))
    for drawing in root.all("svg"):
        if "aria-hidden" in drawing.attributes:
            continue
        assert drawing.attributes["role"] == "img"
        assert (drawing.attributes["aria-labelledby"] or "").split() == [
            drawing.children[0].attributes["id"],
            drawing.children[1].attributes["id"],
        ]
        assert drawing.children[0].words.strip()
        assert drawing.children[1].words.strip()
    for cell in root.all("th"):
        assert cell.attributes["scope"] in ("row", "col")
    for link in root.one("nav").all("a"):
        assert (link.attributes["href"] or "")[1:] in ids


def _walk(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children for inner in _walk(child))]


def test_text_and_attributes_are_escaped() -> None:
    made = tag("p", "a<b", tag("b", 1.5), class_='"><x>', data_n=None, hidden=True)
    assert made == '<p class="&quot;&gt;&lt;x&gt;" hidden>a&lt;b<b>1.5</b></p>'


def test_nothing_from_the_data_becomes_markup(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RecordWriter(folder / records.RECORDS) as writer:
        start(writer, trials=3, metric="valid/<b>")
        for number in range(3):
            name = records.trial_id(number)
            params = {"model": HOSTILE.replace("\ud800", "") + str(number), "x<y": number}
            writer.append("trial_start", id=name, params=params, signature="s")
            metrics = {"valid/<b>": 0.1 * number, "<i>": 1.0}
            writer.append("report", id=name, epoch=1, metrics=metrics, seconds=1.0, final=True)
        reason = HOSTILE.replace("\ud800", "")
        for number in (0, 1):
            name = records.trial_id(number)
            writer.append(
                "trial_end", id=name, state="failed", kind="<u>", reason=reason, seconds=1.0
            )
        writer.append("trial_end", id="0002", state="completed", seconds=1.0)
        writer.append("search_end", state="completed", reason=reason)
    add_bundle(folder, "0002", (HOSTILE, "<img src=x onerror=alert(1)>", "a\nb", "d"))
    (folder / "dataset.json").write_text(json.dumps({"source": HOSTILE, "licence": ["<b>"]}))
    problem = {"severity": "<b>", "title": HOSTILE, "examples": [HOSTILE], "effect": 3}
    (folder / "preflight.json").write_text(json.dumps({"problems": [problem]}))
    (folder / "environment.json").write_text(json.dumps({"<b>": {"<i>": HOSTILE}}))
    error = records.trial_folder(folder, "0000") / records.ERROR_TXT
    error.parent.mkdir(parents=True)
    error.write_bytes(b"</code></pre><script>\xff\x00")
    run = read_run(folder)
    text = page(run)
    text.encode()
    root = parse(text)
    assert len(root.all("script")) == 1
    names = {"b", "i", "u", "img", "y"}
    assert not names & {node.name for node in _walk(root)}
    assert "alert(1)" in root.one("section", id="failures").words
    told = summarise(run)
    told.encode()
    assert "<" not in re.sub(r"`[^`\n]*`", "", told).replace("\\<", "")


# --- runs of every kind ------------------------------------------------------------------------


def test_a_run_in_which_nothing_has_started(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / records.RECORDS) as writer:
        start(writer)
    with RunLock(tmp_path):
        run = read_run(tmp_path)
    root = parse(page(run))
    assert "still running" in root.one("div", class_="lead").words
    assert "No trial has started yet." in root.one("section", id="leaderboard").words
    assert "0 of 1 trials" in summarise(run)


def test_a_run_that_only_failed(tmp_path: Path) -> None:
    run = read_run(
        make_run(tmp_path / "run", 12, goes_on=lambda *_: True, failing=1.0, end="failed")
    )
    root = parse(page(run))
    assert "The search failed." in root.one("div", class_="lead").words
    assert not root.all("section", id="best")
    assert len(root.one("section", id="failures").all("article")) == 1
    assert "12 failed" in summarise(run)


def test_a_training_alone(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / records.RECORDS) as writer:
        start(writer, trials=1)
        writer.append("trial_start", id="0000", params={}, signature="s")
        for epoch in (1, 2):
            metrics = {"valid/accuracy": epoch / 4}
            writer.append(
                "report", id="0000", epoch=epoch, metrics=metrics, seconds=1.0, final=epoch == 2
            )
        writer.append("trial_end", id="0000", state="completed", seconds=2.0)
        writer.append("search_end", state="completed", reason=None)
    (tmp_path / records.SEARCH_YAML).write_text("{single: true, overrides: [model=crnn]}")
    run = read_run(tmp_path)
    assert summary.search_command(run) == "raudio train model=crnn"
    root = parse(page(run))
    assert "The training is complete." in root.one("div", class_="lead").words
    assert "Nothing was searched." in root.one("section", id="settings").words
    assert marks(root, "history-epochs") == 1
    assert "The scheduler stops no trial early" in root.one("section", id="course").words
    assert "trial 0000: valid/accuracy 0.5 at epoch 2" in summarise(run)


def test_a_run_whose_driver_died_or_is_at_work(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 30, end=None)
    root = parse(page(read_run(folder)))
    assert "interrupted" in root.one("div", class_="lead").words
    with RunLock(folder):
        root = parse(page(read_run(folder)))
    assert {row[3] for row in table(root, "All 30")} >= {"running", "pruned"}


def test_only_the_records_must_be_there(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 25)
    for name in (records.SEARCH_YAML, records.SPACE_YAML, records.ENVIRONMENT_JSON):
        (folder / name).write_text("{ no")
    assert parse(page(read_run(folder))).all("svg", id="importances")


@pytest.mark.parametrize(
    "content",
    [
        3,
        {"configuration": 3, "overrides": 3},
        {"details": {"confusion": [[1] * 4] * 4, "wrong": [{"true": 9}, 3]}},
        *(
            pytest.param(content, marks=pytest.mark.slow)  # seven pages each
            for content in (
                [],
                {"configuration": {"experiment": 3, "search": 3}},
                {"params": 3, "conditions": 3},
                {"command": 3, "memory_bytes": "x", "packages": [1]},
                {"splits": {"a": 3, "b": {"seconds": None}}, "labels": 3},
                {"problems": [3, {"examples": 3}]},
                {"details": {"confusion": [["a"] * 4] * 4}},
                {"details": 3},
            )
        ),
    ],
)
def test_a_file_that_was_changed_costs_its_section_and_no_more(
    tmp_path: Path, content: Any
) -> None:
    folder = make_run(tmp_path / "run", 6, failing=0)
    add_bundle(folder, "0000")
    names = [records.SEARCH_YAML, records.SPACE_YAML, records.ENVIRONMENT_JSON]
    names += [records.DATASET_JSON, records.PREFLIGHT_JSON, "bundle/metrics.json"]
    for name in (*names, "bundle/labels.json"):
        place = folder / name
        old = place.read_bytes() if place.exists() else None
        place.write_text(json.dumps(content))
        root = parse(page(read_run(folder), clips=1))
        assert len(table(root, "All 6 trials")) == 7
        assert summarise(read_run(folder))
        place.unlink() if old is None else place.write_bytes(old)


@pytest.mark.slow
def test_a_large_run_stays_small(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", 2400))
    text = page(run)
    assert len(text) < 5e6
    root = parse(text)
    assert marks(root, "history-epochs") == len(run.valued)
    assert len(table(root, "Best 200 of 2400 trials")) == 201
    assert len(root.one("svg", id="curves").all("path", class_="curve")) <= 200
    assert "200 of 2400 trials, evenly over the ranking" in root.one("section", id="course").words


# --- comparison, Markdown, command line --------------------------------------------------------


def test_runs_are_compared(run: Run, tmp_path: Path) -> None:
    other = read_run(make_run(tmp_path / "other", 20, seed=1))
    root = parse(page(run, [other]))
    _, first, second = table(root, "Runs")
    assert first[0] == f"1: {run.name}"
    assert second[0] == f"2: {other.name}"
    assert second[2] == f"{other.value(other.ranked[0]):.4g}"
    lines = root.one("svg", id="compare-epochs").all("path", class_="incumbent")
    assert len(lines) == 2
    assert other.name in summarise(run, [other])
    losses = read_run(make_run(tmp_path / "losses", 3, mode="min"))
    with pytest.raises(RunError, match="their values cannot be compared"):
        page(run, [losses])


def several(folder: Path, objectives: dict[str, str], costs: dict[str, dict[str, float]]) -> Run:
    """A run of trials of one epoch, each with its value and what it cost."""
    with RecordWriter(folder / records.RECORDS) as writer:
        writer.append(
            "search_start", version="0.1.0", metric="valid/accuracy", mode="max", trials=len(costs),
            time_budget=None, resumed=False, objectives=objectives,
        )  # fmt: skip
        for name, metrics in costs.items():
            writer.append("trial_start", id=name, params={"a": int(name)}, signature=name)
            writer.append(
                "report", id=name, epoch=1, metrics=metrics, seconds=1.0, final=True
            )  # fmt: skip
            writer.append("trial_end", id=name, state="completed", seconds=1.0)
        writer.append("search_end", state="completed", reason=None)
    return read_run(folder)


def test_several_objectives_are_all_shown(tmp_path: Path) -> None:
    costs = {
        "0000": {"valid/accuracy": 0.9, "cost/params": 104379.0},
        "0001": {"valid/accuracy": 0.8, "cost/params": 4000.0},
        "0002": {"valid/accuracy": 0.7, "cost/params": 5000.0},
    }
    run = several(tmp_path / "run", {"valid/accuracy": "max", "cost/params": "min"}, costs)
    root = parse(page(run))
    rows = table(root, "All 3 trials")
    assert [row[2:4] for row in rows] == [
        ["valid/accuracy", "cost/params"], ["0.9", "104,379"], ["0.8", "4,000"], ["0.7", "5,000"]
    ]  # fmt: skip
    told = "Pareto front of valid/accuracy and cost/params: 0000, 0001."
    assert told in root.one("header").words
    assert "no other beats in both objectives" in root.one("section", id="cost").words
    assert ["cost/params", "104,379"] in table(root, "Metrics of trial 0000")
    written = summarise(run)
    assert told in written
    assert "| 0001 | 0.8 | 4,000 | completed | 1 |" in written

    three = {"valid/accuracy": "max", "cost/params": "min", "valid/loss": "min"}
    costs = {name: {**one, "valid/loss": 1 / (1 + int(name))} for name, one in costs.items()}
    words = parse(page(several(tmp_path / "three", three, costs))).one("section", id="cost").words
    assert "2 trials (the line)" in words
    assert "of the first two objectives. In all 3: 0000, 0001, 0002." in words


def test_the_cost_s_columns_are_those_that_differ(tmp_path: Path) -> None:
    metrics = {"valid/accuracy": 0.5, "cost/device_seconds": 1.0}
    assert "on devices" not in table(root_of(tmp_path / "one", metrics), "Trials' time")[0]
    metrics["cost/device_seconds"] = 4.0
    rows = table(root_of(tmp_path / "many", metrics), "Trials' time")
    assert rows[1][rows[0].index("on devices")] == "4.0 s"


def root_of(folder: Path, metrics: dict[str, float]) -> Node:
    return parse(page(several(folder, {}, {"0000": metrics})))


def test_the_markdown_has_the_best_trials_and_the_command(run: Run) -> None:
    lines = summarise(run).splitlines()
    assert run.best is not None
    rows = [line for line in lines if re.match(r"\| \d{4} \|", line)]
    assert [row.split(" | ")[0][2:] for row in rows] == [trial.id for trial in run.ranked[:5]]
    assert f"`{run.best.params['optimizer.lr']}`" in summarise(run)
    assert "raudio search search.trials=60" in lines


def test_the_command_writes_the_page(run: Run, tmp_path: Path) -> None:
    def raudio(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["report", *arguments])

    done = raudio(str(run.folder))
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(run.folder / "report.html")
    parse((run.folder / "report.html").read_text())
    other = make_run(tmp_path / "other", 3)
    out = tmp_path / "new" / "page.html"
    done = raudio(str(run.folder), "--compare", str(other), "--out", str(out))
    assert "Comparison" in out.read_text()
    done = raudio(str(run.folder), "--compare", str(other), str(other), "--markdown")
    assert done.stdout.startswith("### raudio: made\n")
    assert isinstance(raudio(str(run.folder), "--out", str(tmp_path)).exception, RunError)
    assert isinstance(raudio(str(tmp_path)).exception, RunError)


# --- clips -------------------------------------------------------------------------------------


def test_a_spectrogram_shows_a_tone_where_it_is() -> None:
    rate, hertz = 8000, 1000
    wave = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    levels = clips.spectrogram(wave, rate)
    rows, columns = levels.shape
    loudest = rows - 1 - levels[:, columns // 2].argmax()  # counted from the bottom
    assert (loudest + 0.5) / rows * rate / 2 == pytest.approx(hertz, abs=rate / 2 / rows)
    assert levels.max() == 255
    assert clips.spectrogram(np.zeros(10, np.float32), rate).shape[1] == 1


def test_a_picture_is_a_png(tmp_path: Path) -> None:
    """Read back by hand: signature, sizes, checksums, and the levels that went in."""
    import struct
    import zlib

    levels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = clips.png(levels)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        assert struct.unpack(">I", content[at + 8 + size : at + 12 + size]) == (
            zlib.crc32(kind + data),
        )
        chunks[kind], at = data, at + 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (4, 3)
    assert len(chunks[b"PLTE"]) == 768
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    assert (lines[:, 1:] == levels).all()


def test_the_most_wrong_clips_can_be_heard(tmp_path: Path) -> None:
    import base64
    import io

    import soundfile

    from raudio.config.compose import experiment_for
    from raudio.config.validate import to_mapping
    from raudio.data.clips import stored_tables
    from raudio.data.synth import synth

    manifest = synth(tmp_path / "data", clips=400)
    folder = make_run(tmp_path / "run", 5, failing=0)
    best = read_run(folder).best
    assert best is not None
    add_bundle(folder, best.id, manifest.labels)
    metrics = json.loads((folder / "bundle" / "metrics.json").read_text())
    metrics["dataset"] = manifest.fingerprint
    metrics["details"]["wrong"][1]["clip"] = second = manifest.shards_of("valid")[0].clips
    (folder / "bundle" / "metrics.json").write_text(json.dumps(metrics))
    experiment = to_mapping(experiment_for((), {"dataset.path": manifest.path}))
    configuration = {"experiment": experiment}
    (folder / records.SEARCH_YAML).write_text(json.dumps({"configuration": configuration}))
    heard = parse(page(read_run(folder), clips=2)).one("div", class_="clips").all("figure")
    rows = [row for part in stored_tables(manifest, "valid") for row in part.to_pylist()]
    assert len(heard) == 2
    for one, row in zip(heard, (rows[0], rows[second]), strict=True):
        assert row["clip_id"] in one.one("figcaption").words
        assert row["clip_id"] in (one.one("img").attributes["alt"] or "")
        source = (one.one("audio").attributes["src"] or "").partition(",")[2]
        wave, _ = soundfile.read(io.BytesIO(base64.b64decode(source)))
        assert len(wave) > 0
    metrics["dataset"] = "another"
    (folder / "bundle" / "metrics.json").write_text(json.dumps(metrics))
    words = parse(page(read_run(folder), clips=2)).one("section", id="best").words
    assert "cannot be heard here" in words
    assert "has changed since the run" in words


# --- scales ------------------------------------------------------------------------------------


def test_scales() -> None:
    linear = Scale.of([0.0, 10.0])
    assert linear.place(5) == pytest.approx(0.5)
    assert [label for _, label in linear.ticks(6)] == ["0", "2", "4", "6", "8", "10"]
    log = Scale.of([1e-4, 1e-2], log=True)
    assert log.place(1e-3) == pytest.approx(0.5)
    assert [label for _, label in log.ticks(3)] == ["0.0001", "0.001", "0.01"]
    names = Scale.of(["b", None, True])
    assert names.names == ("b", "none", "true")
    assert names.place(None) == pytest.approx(0.5)
    assert [label for _, label in Scale.of([16, 32, 64], few=True).ticks()] == ["16", "32", "64"]
    assert [label for _, label in Scale.of([700], zero=True, time=True).ticks(3)] == [
        "0",
        "5 min",
        "10 min",
    ]
    assert Scale.of([3.0, 3.0]).place(3.0) == pytest.approx(0.5)
    assert linear.place(99) == 1.0
    assert [short(v) for v in (1e-5, 2e10, 50_000.0, 0.12345, 3, None)] == [
        "1e-5",
        "2e10",
        "50000",
        "0.1235",
        "3",
        "none",
    ]
