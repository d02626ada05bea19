"""Runs for the trackers' tests: an engine's own records on made-up curves, told without Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from search_kit import Clock, Session

from raudio.config import compose, validate
from raudio.records import EXPERIMENT_YAML, SEARCH_YAML
from raudio.tracking.follow import Follower
from raudio.tracking.tracker import Outcome, Tracker, tracking_folder

LABELS = ("cat", "dog")
CONFUSION = ((5, 1), (2, 8))
#: A tracker that writes a line for all that it is told, and misbehaves where it is asked to.
PLUGIN = """
import os
import time
from pathlib import Path

import raudio
from raudio.tracking.tracker import Tracker


@raudio.register.tracker("lines", "a line for all")
class Lines(Tracker):
    def __init__(self, *, file: str = "", fail: str = "", sleep: float = 0.0) -> None:
        self.file, self.bad, self.sleep = Path(file), fail, sleep

    def say(self, *words):
        time.sleep(self.sleep)
        print("noise of a library", os.environ.get("A_SECRET"))
        with self.file.open("a") as out:
            print(*words, file=out)
        if words[0] == self.bad:
            raise ConnectionError("https://me:hunter22@host/api is\\nunreachable")

    def start_search(self, run, history):
        known = self.file.exists()
        self.say("start_search", run.name)
        return known

    def start_trial(self, trial, settings, time):
        self.say("start_trial", trial.id)
        return 0

    def report(self, trial, report, time):
        self.say("report", trial.id, report.epoch)

    def end_trial(self, trial, state, time):
        self.say("end_trial", trial.id, state)

    def end_search(self, history, outcome):
        self.say("end_search", history.state)
"""


class Searched:
    """A search on curves, session by session.

    Args:
        run: the run folder.
        overrides: of the command line, as `search.yaml` keeps them.
        settings: of the search.
    """

    def __init__(self, run: Path, *overrides: str, **settings: Any) -> None:
        self.run = run
        self.clock = Clock()
        self.settings = {"trials": 6, **settings}
        run.mkdir(parents=True)
        configuration = compose.compose(["dataset.path=/data/birds", *overrides])
        recorded = {"configuration": validate.to_mapping(configuration), "overrides": []}
        (run / SEARCH_YAML).write_text(yaml.safe_dump(recorded))

    def session(self, deadline: float = math.inf) -> Session:
        """A driver, which has not begun to train; dies at its record number `deadline`."""
        return Session(self.run, self.clock, deadline=deadline, **self.settings)

    def finish(self) -> None:
        """A driver that goes on to the end."""
        self.session().finish()

    def keep_experiments(self) -> None:
        """`experiment.yaml` of each trial, as `open_trial` writes it."""
        for folder in (self.run / "trials").iterdir():
            experiment = compose.compose(["model=cnn10", "augment.gain.p=0.5"]).experiment
            (folder / EXPERIMENT_YAML).write_text(validate.dump_yaml(experiment))


def tell(run: Path, tracker: Tracker, outcome: Outcome | None = None, name: str = "test") -> None:
    """All of a run, as a process of its own tells it."""
    follower = Follower(run, tracker, name)
    follower.step()
    follower.end(outcome or Outcome())


def lag(run: Path, name: str = "test") -> None:
    """The process that told a tracker died before it could say how far it had come."""
    position = tracking_folder(run) / f"{name}.json"
    content = json.loads(position.read_text())
    position.write_text(json.dumps({**content, "records": max(0, content["records"] - 5)}))


def make_bundle(run: Path) -> Path:
    """What a tracker sends of a bundle: its files."""
    bundle = run / "bundle"
    bundle.mkdir()
    metrics = {
        "trial": "0000",
        "details": {
            "confusion": CONFUSION,
            "wrong": [{"clip": 0, "true": 0, "predicted": 1, "score": 0.9, "true_score": 0.1}],
        },
    }
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    (bundle / "labels.json").write_text(json.dumps(LABELS))
    (bundle / "README.md").write_text("# A model\n")
    return bundle
