"""How good a search is for the epochs that it spends: samplers and schedulers on recorded curves.

Run as `python benchmarks/search_quality.py --peer-python PATH`; see the README beside it. Each
contender searches the same table of learning curves with the same number of simulated workers,
once a seed. Prints a table, and writes JSON and a plot.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from figures import machine
from plot import Line, plot
from rich.console import Console
from rich.progress import track
from rich.table import Table

from raudio.search.curves import Curves

HERE = Path(__file__).parent
TABLE = HERE / "curves" / "fsdd_cnn_or_crnn.parquet"
RESULTS = HERE / "results" / "search_quality.json"
#: Draws of the bootstrap, and what its intervals hold.
BOOTSTRAP, INTERVAL = 2000, (2.5, 97.5)
RANDOM, OURS = "random", "ASHA + TPE"


@dataclass(frozen=True)
class Contender:
    """A way to search.

    Attributes:
        search: raudio's settings; empty for a peer.
        peer: Syne Tune's scheduler, of syne_tune_peer.py; empty for raudio.
        epochs: that it spends at most, because its draws become slow; None: as many as all.
    """

    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    peer: str = ""
    epochs: int | None = None


CONTENDERS = {
    RANDOM: Contender({"sampler": "random", "scheduler": "none"}),
    "TPE": Contender({"sampler": "tpe", "scheduler": "none"}),
    "ASHA + random": Contender({"sampler": "random", "scheduler": "asha"}),
    OURS: Contender({}),  # the defaults
    "Syne Tune ASHA": Contender(peer="asha", epochs=500),
    "Syne Tune MOBSTER": Contender(peer="mobster", epochs=200),
}


# --- one search --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What all searches have in common.

    Attributes:
        table: of the curves.
        epochs: that each search spends.
        workers: trials at once, simulated.
        neighbours: recorded curves whose mean answers a configuration.
        peer: Python of the peer's environment; None leaves the peer out.
        work: keeps each search's values, so that an interrupted benchmark goes on.
    """

    table: Path
    epochs: int
    workers: int
    neighbours: int
    peer: str | None
    work: Path

    def length(self, contender: Contender) -> int:
        """Epochs that a search of it spends."""
        return min(self.epochs, contender.epochs or self.epochs)

    def values(self, name: str, seed: int) -> list[float]:
        """The metric of each epoch in the order in which they were spent."""
        kept = self.work / f"{name.replace(' ', '_')}-{self.neighbours}-{seed}.json"
        if not kept.exists():
            text = json.dumps(self._search(CONTENDERS[name], seed))
            partial = kept.with_suffix(".part")
            partial.write_text(text)
            partial.rename(kept)
        found: list[float] = json.loads(kept.read_text())
        return found

    def _search(self, contender: Contender, seed: int) -> Any:
        """In a process of its own: two run at once, one on each core."""
        numbers = seed, self.length(contender), self.workers, self.neighbours
        common = [str(self.table), *map(str, numbers)]
        if contender.peer:
            assert self.peer is not None
            command = [self.peer, str(HERE / "syne_tune_peer.py"), contender.peer, *common]
        else:
            own = json.dumps(dict(contender.search))
            command = [sys.executable, str(HERE / "replayed.py"), own, *common]
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def search_all(setup: Setup, names: Sequence[str], seeds: range, console: Console) -> Any:
    """The best value so far, (seeds, epochs) for each contender."""
    jobs = [(name, seed) for seed in seeds for name in names]
    with ThreadPoolExecutor(2) as pool:
        values = pool.map(lambda job: setup.values(*job), jobs)
        done = dict(
            zip(jobs, track(values, total=len(jobs), console=console, transient=True), strict=True)
        )
    lengths = {name: setup.length(CONTENDERS[name]) for name in names}
    return {
        name: np.stack([_best_so_far(done[name, seed], length) for seed in seeds])
        for name, length in lengths.items()
    }


def _best_so_far(values: Sequence[float], epochs: int) -> np.ndarray:
    """(epochs,); a search that had nothing left to try keeps its best."""
    best = np.maximum.accumulate(np.asarray(values[:epochs], dtype=float))
    return np.pad(best, (0, epochs - len(best)), mode="edge")


# --- what they say -----------------------------------------------------------------------------


def needed(best: np.ndarray, target: float) -> np.ndarray:
    """Epochs that each search spent until it reached `target`, (seeds,); infinite: never."""
    reached = best >= target
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, math.inf)


def interval(values: np.ndarray, statistic: Any) -> tuple[float, float]:
    """The bootstrap's percentile interval of a statistic of (seeds, ...) over the seeds."""
    draw = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAP, len(values)))
    found = [statistic(values[chosen]) for chosen in draw]
    low, high = np.percentile(found, INTERVAL, method="nearest")
    return float(low), float(high)


def summary(best: Mapping[str, np.ndarray], budgets: Sequence[int]) -> dict[str, Any]:
    """For each contender: epochs to random search's final quality, and quality at equal budgets."""
    epochs = best[RANDOM].shape[1]
    target = float(np.median(best[RANDOM][:, -1]))
    found: dict[str, Any] = {}
    for name, values in best.items():
        spent = needed(values, target)
        within = [at for at in budgets if at <= values.shape[1]]
        found[name] = {
            "epochs_needed": float(np.median(spent)),
            "epochs_needed_interval": interval(spent, np.median),
            "reached": float(np.isfinite(spent).mean()),
            "ratio": epochs / float(np.median(spent)),
            "mean_at": {at: float(values[:, at - 1].mean()) for at in within},
            "mean_at_interval": {at: interval(values[:, at - 1], np.mean) for at in within},
        }
    return {"target": target, "contenders": found}


def against(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """The mean difference at one budget over the seeds that both have, and its interval."""
    difference = ours - theirs
    return {"mean": float(difference.mean()), "interval": interval(difference, np.mean)}


def _finite(value: Any) -> Any:
    """With null for infinite, which JSON does not have: epochs that never were enough."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(found: Mapping[str, Any], budgets: Sequence[int], epochs: int, console: Console) -> None:
    table = Table(
        title=f"epochs to reach {found['target']:.4f}, the median of random search after {epochs}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("search", "epochs needed", "95 %", "fewer", "reached"):
        table.add_column(
            heading, justify="left" if heading == "search" else "right", no_wrap=heading == "search"
        )
    for at in budgets:
        table.add_column(f"mean at {at}", justify="right")
    for name, row in found["contenders"].items():
        low, high = row["epochs_needed_interval"]
        table.add_row(
            name,
            f"{row['epochs_needed']:.0f}",
            f"{low:.0f} to {high:.0f}",
            f"{row['ratio']:.1f}x" if row["ratio"] else "",
            f"{row['reached']:.0%}",
            *(f"{row['mean_at'][at]:.4f}" if at in row["mean_at"] else "" for at in budgets),
        )
    console.print(table)


def draw(best: Mapping[str, np.ndarray], metric: str) -> str:
    """The mean of the best so far with its 95 % band, by epochs spent."""
    lines = []
    for name, values in best.items():
        error = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(len(values))
        mean = values.mean(axis=0)
        lines.append(Line(name, np.arange(1, len(mean) + 1), mean, mean - error, mean + error))
    return plot(lines, "epochs spent", f"best {metric}, mean over seeds and 95 % band")


# --- the command -------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=TABLE, help="of recorded curves")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument(
        "--first-seed", type=int, default=100, help="the defaults were chosen on those below 100"
    )
    parser.add_argument("--epochs", type=int, default=2000, help="that each search spends")
    parser.add_argument("--workers", type=int, default=4, help="trials at once, simulated")
    parser.add_argument(
        "--neighbours", type=int, default=5, help="recorded curves whose mean answers a draw"
    )
    parser.add_argument("--peer-python", help="Python with syne_tune_requirements.txt installed")
    parser.add_argument("--work", type=Path, help="keeps each search; the same one goes on")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; the plot lies beside it")
    parser.add_argument("--quick", action="store_true", help="3 seeds: the figures mean nothing")
    given = parser.parse_args()
    count, epochs = (3, 200) if given.quick else (given.seeds, given.epochs)
    seeds = range(given.first_seed, given.first_seed + count)
    console, notes = Console(), Console(stderr=True)
    curves = Curves.read(given.table)
    names = [name for name, each in CONTENDERS.items() if given.peer_python or not each.peer]
    if not given.peer_python:
        notes.print("Syne Tune is left out: --peer-python names its environment's Python")
    work = given.work or Path(tempfile.mkdtemp(prefix="raudio-search-quality-"))
    work.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        given.table.resolve(),
        epochs,
        given.workers,
        given.neighbours,
        given.peer_python,
        work,
    )
    best = search_all(setup, names, seeds, notes)
    budgets = [epochs // 20, epochs // 10, epochs // 4, epochs]
    found = summary(best, budgets)
    peers = [name for name in names if CONTENDERS[name].peer]
    found["against_peers"] = {
        at: {
            name: against(best[OURS][:, at - 1], best[name][:, at - 1])
            for name in peers
            if at <= best[name].shape[1]
        }
        for at in budgets
    }
    show(found, budgets, epochs, console)
    for at, differences in found["against_peers"].items():
        for name, each in differences.items():
            low, high = each["interval"]
            console.print(
                f"{OURS} minus {name} at {at}: {each['mean']:+.4f} (95 % {low:+.4f} to {high:+.4f})"
            )
    result = {
        "quick": given.quick,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(("hydra-core",)),
        "table": {"configurations": len(curves.curves), "epochs": curves.epochs},
        "seeds": [seeds.start, seeds.stop - 1],
        "epochs": epochs,
        "workers": given.workers,
        "epochs_of": {name: values.shape[1] for name, values in best.items()},
        "neighbours": given.neighbours,
        **found,
        "curves": {
            name: [round(float(v), 5) for v in values.mean(axis=0)] for name, values in best.items()
        },
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n")
    given.out.with_suffix(".svg").write_text(draw(best, curves.metric))
    notes.print(f"{given.out} and {given.out.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
