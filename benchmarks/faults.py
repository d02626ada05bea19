"""A search that is struck by faults of all kinds, and what they cost it; then whether all is right.

Run as `python benchmarks/faults.py`; see the README beside it. A cluster of small machines and an
S3 on loopback, a search that runs undisturbed and once more under faults. Prints two tables and
writes JSON; the exit status is 1 if anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import soundfile
from campaign import plan
from campaign.checks import Check, check, commands, fetch
from campaign.conduct import Campaign, Course, as_data
from campaign.costs import Cost, costs
from campaign.driver import run as raudio
from campaign.served import Served
from figures import machine
from rich.console import Console
from rich.table import Table

from raudio.core import storage
from raudio.records import read_history

HERE = Path(__file__).parent
PLUGIN = HERE / "campaign" / "watched.py"
STORE = HERE / "campaign" / "store.py"
RESULTS = HERE / "results" / "faults.json"

SPACE = """\
about: rate and width of a small model
params:
  optimizer.lr: tag(log, interval(1e-4, 3e-2))
  model.width: choice(4, 6, 8)
"""
SEARCH = (
    "model=cnn",
    "model.depth=2",
    "features.n_mels=32",
    "schedule=watched",
    "search.keep=3",
    "search.seed=5",
)
#: With one slot, the order of all reports is the undisturbed search's, and so is all that follows
#: from it: what is drawn, and what is pruned. With several, only what follows from nothing is.
IN_ORDER = (
    "search.sampler=tpe",
    "search.scheduler=asha",
    "search.grace=2",
    "search.reduction_factor=2",
)
IN_ANY_ORDER = ("search.sampler=random", "search.scheduler=none")
_BATCH = 16
_LIMIT = 3600.0


def search(given: argparse.Namespace, data: str, space: Path) -> list[str]:
    """The arguments of `raudio search`."""
    return [
        *SEARCH,
        *(IN_ORDER if given.slots == 1 else IN_ANY_ORDER),
        f"search.concurrency={given.slots}",
        f"space={space}",
        f"dataset.path={data}",
        f"dataset.feed={given.feed}",
        "dataset.cache_limit=0",
        f"plugins={PLUGIN}",
        f"training.batch_size={_BATCH}",
        f"training.epochs={given.epochs}",
        f"search.trials={given.trials}",
        *(f"training.checkpoint_every={n} steps" for n in [given.checkpoint_steps] if n),
    ]


def courses(
    given: argparse.Namespace,
    work: Path,
    store: Served,
    say: Callable[[str], None],
) -> tuple[Course, Course, list[Check]]:
    """The undisturbed course, the disturbed one, and the checks."""
    environment: dict[str, str] = store.ask("environment")
    os.environ.update(environment)  # this process reads the runs
    place = str(work / "runs") if given.disk else "s3://sounds/runs"
    space = work / "space.yaml"
    space.write_text(SPACE)
    local, data = work / "data", "s3://sounds/data"
    raudio(["data", "synth", str(local), "--clips", str(given.clips)], work / "made", environment)
    for file in storage.listing(local):
        storage.write_atomic(storage.join(data, file), (local / file).read_bytes())
    arguments = search(given, data, space)
    faults = plan.plan(given.seed, _counts(given))
    say("starting a cluster")
    with Campaign(
        work, arguments, rest=given.rest, environment=environment, store=store, say=say
    ) as campaign:
        say("undisturbed")
        undisturbed = campaign.search(f"{place}/undisturbed", (), 0, _LIMIT)
        steps = len(undisturbed.steps)
        say(f"{undisturbed.ended - undisturbed.began:.0f} s, {steps} steps; {len(faults)} faults")
        disturbed = campaign.search(f"{place}/disturbed", faults, steps, _LIMIT)
        say(f"{disturbed.ended - disturbed.began:.0f} s, {len(disturbed.steps)} steps")
    ours = fetch(f"{place}/disturbed", work / "copies" / "disturbed")
    theirs = fetch(f"{place}/undisturbed", work / "copies" / "undisturbed")
    epoch = epoch_steps(undisturbed, theirs)
    interval = given.checkpoint_steps or epoch
    # The resident feed decodes when a driver starts, and then no more.
    spared = (plan.DATA,) if given.feed == "resident" else ()
    checks = list(check(ours, theirs, disturbed, interval, epoch, spared))
    recording = work / "recording.wav"
    soundfile.write(recording, np.random.default_rng(0).uniform(-0.3, 0.3, 16_000), 16_000)
    run, folder = f"{place}/disturbed", work / "elsewhere"
    checks.append(commands(run, folder, recording, PLUGIN, environment))
    return undisturbed, disturbed, checks


def epoch_steps(course: Course, run: Path) -> int:
    """Steps of an epoch, which all trials share."""
    epochs = sum(trial.epochs for trial in read_history(run).trials.values())
    return len(course.steps) // epochs


def _counts(given: argparse.Namespace) -> dict[str, int]:
    counts = dict.fromkeys(plan.QUICK, 1) if given.quick else plan.COUNTS
    return {kind: counts[kind] for kind in given.kinds or counts}


def costs_table(found: Sequence[Cost], course: Course) -> Table:
    """What each kind of fault cost."""
    made = Table(title="What the faults cost", title_justify="left", box=None, pad_edge=False)
    made.add_column("fault")
    for heading in ("struck", "seconds each", "worst", "epochs again each", "worst", "in all"):
        made.add_column(heading, justify="right")
    for cost in found:
        count = len(cost.seconds)
        made.add_row(
            cost.kind,
            str(count),
            f"{sum(cost.seconds) / count:.1f}",
            f"{max(cost.seconds):.1f}",
            f"{sum(cost.epochs) / count:.2f}",
            f"{max(cost.epochs):.2f}",
            f"{sum(cost.epochs):.2f}",
        )
    seconds = sum(sum(cost.seconds) for cost in found)
    epochs = sum(sum(cost.epochs) for cost in found)
    made.add_section()
    made.add_row(
        "all", str(len(course.struck)), f"{seconds:.0f} in all", "", "", "", f"{epochs:.2f}"
    )
    return made


def checks_table(checks: Sequence[Check]) -> Table:
    """Whether all is right."""
    made = Table(title="Afterwards", title_justify="left", box=None, pad_edge=False)
    for heading in ("expected", "", "found"):
        made.add_column(heading, overflow="fold")
    for each in checks:
        verdict = "[green]pass[/]" if each.passed else "[bold red]FAILS[/]"
        made.add_row(each.name, verdict, each.found.replace("[", r"\["))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the campaign, prints the tables, writes the JSON; 1 where a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the faults (%(default)s)")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--slots", type=int, default=1, help="trials at once")
    parser.add_argument("--epochs", type=int, default=6, help="of a trial that is not pruned")
    parser.add_argument("--clips", type=int, default=400, help="of the embedded data")
    parser.add_argument("--rest", type=float, default=0.08, help="seconds that each step waits")
    parser.add_argument("--checkpoint-steps", type=int, help="between two; none: an epoch's")
    parser.add_argument("--feed", choices=("streamed", "resident"), default="streamed")
    parser.add_argument("--kinds", nargs="+", choices=tuple(plan.COUNTS), help="only these")
    parser.add_argument(
        "--disk", action="store_true", help="the run on a shared disk; the data in the store"
    )
    parser.add_argument("--work", type=Path, help="keeps everything; must be new, its path short")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a minute, four faults")
    given = parser.parse_args(argv)
    if given.quick:
        given.trials, given.epochs, given.clips, given.rest = 3, 3, 160, 0.05
    console = Console(width=None if sys.stdout.isatty() else 160)
    on = machine()
    work = given.work or Path(tempfile.mkdtemp(prefix="faults-"))
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    with Served(STORE, log=work / "store.txt") as store:
        undisturbed, disturbed, checks = courses(given, work, store, say)
    steps = epoch_steps(undisturbed, work / "copies" / "undisturbed")
    found = costs(disturbed, undisturbed, steps)
    console.print(costs_table(found, disturbed))
    console.print(checks_table(checks))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "faults",
        "quick": given.quick,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - began,
        "machine": on,
        "settings": {name: str(value) for name, value in vars(given).items()},
        "epoch_steps": steps,
        "undisturbed": as_data(undisturbed),
        "disturbed": as_data(disturbed),
        "costs": [vars(cost) for cost in found],
        "checks": [vars(each) for each in checks],
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {given.out}", file=sys.stderr)
    if given.work is None and all(each.passed for each in checks):
        shutil.rmtree(work)
    return 0 if all(each.passed for each in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
