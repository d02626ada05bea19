"""What many machines cost the driver of a search, the head of its cluster, and its store.

Run as `python benchmarks/cluster_scale.py`; see the README beside it. A cluster of many small
machines on this one; trials do no work, and go through the real engine and Ray Tune. Prints a table
and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import processes
from campaign.served import Served
from figures import Figure, machine, table
from rich.console import Console
from search_scale import METRIC, through_tune

from raudio.cluster.session import present_capacity
from raudio.config.schema import Cluster, Search
from raudio.records import RECORDS, read_records
from raudio.search.engine import Engine

HERE = Path(__file__).parent
MACHINES = HERE / "campaign" / "machines.py"
RESULTS = HERE / "results" / "cluster_scale.json"

#: Of a machine: one trial's CPU, and little else. Ray wants an object store of 75 MB at least; what
#: nobody writes to takes no memory.
MACHINE = {"num_cpus": 1, "memory": 2 * 10**9, "object_store_memory": 80 * 10**6}
HEAD = {"num_cpus": 0, "object_store_memory": 80 * 10**6}
#: What a machine took without a trial, and what a trial's process takes (measured).
_MACHINE_BYTES, _TRIAL_BYTES = 150 * 10**6, 120 * 10**6
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 1500.0


# --- one search, in a process of its own -------------------------------------------------------


def _work(config: Mapping[str, Any], epochs: int, gate: str) -> None:
    """A trial that reports at once, waits until all slots are taken, and reports the rest."""
    from ray import tune

    draw = np.random.default_rng(int(config["id"]))
    for epoch in range(1, epochs + 1):
        metrics = {f"metrics/{METRIC}": float(draw.uniform())}
        tune.report({"epoch": epoch, **metrics, "loop_seconds": 0.0, "final": epoch == epochs})
        while not os.path.exists(gate):
            time.sleep(0.2)


def drive(
    run: Path, address: str, session: int, slots: int, trials: int, epochs: int
) -> dict[str, Any]:
    """A search on a running cluster, by this process.

    Args:
        run: the new run folder.
        address: of the cluster.
        session: whose processes are the cluster.
        slots: trials at once.
        trials: in all.
        epochs: of each.

    Returns:
        filling: (seconds, trials given to Tune, trials that have reported) until all slots had one
        that had; all_memory: bytes of all processes then; look: seconds of the look at the cluster
        that a driver has every five seconds; seconds, cpu: of the rest of the search,
        wall and this process's CPU; trials, reports: of that rest; memory: resident bytes of this
        process at its end.
    """
    run.mkdir(parents=True)
    (run / RECORDS).touch()
    gate = run / "all-slots-are-taken"
    began = time.perf_counter()
    filling: list[tuple[float, int, int]] = []
    found: dict[str, Any] = {"filling": filling}
    start = {"wall": 0.0, "cpu": 0.0}
    cluster = Cluster(address=address)

    def look(engine: Engine) -> None:
        if gate.exists():
            return
        reported = sum(bool(trial.reports) for trial in engine.running)
        filling.append((time.perf_counter() - began, len(engine.running), reported))
        if reported >= slots:
            found["all_memory"] = processes.session_memory(session)
            asked = time.perf_counter()
            present_capacity(cluster)
            found["look"] = time.perf_counter() - asked
            start.update(wall=time.perf_counter(), cpu=time.process_time())
            gate.touch()

    search = Search(trials=trials, concurrency=slots, scheduler="none")
    work = partial(_work, epochs=epochs, gate=str(gate))
    through_tune(run, search, cluster, work=work, epochs=epochs, look=look)
    events = [record["event"] for record in read_records(run)]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        **found,
        "seconds": time.perf_counter() - start["wall"],
        "cpu": time.process_time() - start["cpu"],
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "trials": events.count("trial_start") - slots,
        "reports": events.count("report") - slots,
    }


# --- the cluster -------------------------------------------------------------------------------


class Watched:
    """What the head's processes, and all machines, use.

    Args:
        machines: the cluster.
        idle: seconds that it is looked at while nothing is asked of it.
    """

    def __init__(self, machines: Served, idle: float) -> None:
        self._machines, self._idle = machines, idle

    def head(self) -> dict[str, dict[str, float]]:
        """CPU seconds so far and bytes of GCS and raylet of the head."""
        found = {}
        for process, command in self._machines.ask("processes", name="head").items():
            for kind in ("gcs_server", "raylet"):
                if command.partition(" ")[0].endswith(f"/{kind}"):
                    memory = processes.memory_of(int(process))
                    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
                    ticks = int(fields[11]) + int(fields[12])
                    bytes_ = memory.private + memory.files + memory.shared if memory else 0
                    found[kind] = {"cpu": ticks / _TICKS, "memory": bytes_}
        return found

    def idle(self) -> dict[str, float]:
        """Bytes (PSS) of all of it, and the cores' worth that the head's processes and all others
        take, while nothing is asked of them."""
        time.sleep(self._idle / 4)  # it comes to rest
        before, all_before = self.head(), processes.cpu_seconds(self._machines.process.pid)
        time.sleep(self._idle)
        after, all_after = self.head(), processes.cpu_seconds(self._machines.process.pid)
        return {
            "memory": processes.session_memory(self._machines.process.pid),
            "gcs": (after["gcs_server"]["cpu"] - before["gcs_server"]["cpu"]) / self._idle,
            "all": (all_after - all_before) / self._idle,
        }


def affordable(wanted: int, slots: int) -> int:
    """As many machines as the free memory allows, with a fifth to spare."""
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    room = 0.8 * free - slots * _TRIAL_BYTES
    return max(1, min(wanted, int(room // _MACHINE_BYTES)))


def measure(given: argparse.Namespace, work: Path, console: Console) -> dict[str, Any]:
    """All searches, on a cluster that grows between them."""
    result: dict[str, Any] = {"grown": [], "searches": []}
    settings = json.dumps({"head": HEAD, "node": MACHINE})
    environment = {**os.environ, "RAY_TMPDIR": str(work / "ray")}
    with Served(MACHINES, settings, log=work / "machines.txt", environment=environment) as machines:
        watched, there = Watched(machines, given.idle), 0
        address = machines.ask("address")
        result["head alone"] = watched.idle()
        for count in given.machines:
            count = affordable(count, count)
            began = time.perf_counter()
            while there < count:
                machines.ask("add", name=str(there))
                there += 1
            seconds = time.perf_counter() - began
            grown = {"machines": there, "seconds": seconds, **watched.idle()}
            result["grown"].append(grown)
            console.print(f"{there} machines: {grown['memory'] / 1e9:.1f} GB")
            for epochs in given.epochs:
                before = watched.head()
                folder = work / f"{there}-{epochs}"
                folder.mkdir()
                numbers = [machines.process.pid, there, max(given.trials, 2 * there), epochs]
                step = [str(folder / "run"), address, *map(str, numbers)]
                command = [sys.executable, __file__, "--step", *step]
                command += ["--out", str(folder / "found.json")]
                with processes.Others() as others:
                    processes.run(command, folder / "log.txt", _PATIENCE)
                found = json.loads((folder / "found.json").read_text())
                after = watched.head()
                found |= {
                    "machines": there,
                    "epochs": epochs,
                    "gcs_cpu": after["gcs_server"]["cpu"] - before["gcs_server"]["cpu"],
                    "raylet_cpu": after["raylet"]["cpu"] - before["raylet"]["cpu"],
                    "gcs_memory": after["gcs_server"]["memory"],
                    "others": others.cores,
                }
                result["searches"].append(found)
                rate = found["trials"] / found["seconds"]
                console.print(f"{there} machines, {epochs} epochs: {rate:.1f} trials a second")
    return result


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """What the searches tell: the cost of a trial and of a report, apart, by their difference."""
    found = []
    grown = result["grown"]
    last = grown[-1]
    alone, count = result["head alone"], last["machines"]
    for name, what, unit in (
        ("memory of a machine without a trial", "memory", "B"),
        ("cores that it takes", "all", ""),
        ("cores that it takes of the GCS", "gcs", ""),
    ):
        found.append(Figure(name, (last[what] - alone[what]) / count, unit))
    for machines in dict.fromkeys(each["machines"] for each in result["searches"]):
        few, many = (
            choose(each for each in result["searches"] if each["machines"] == machines)
            for choose in (partial(min, key=_epochs), partial(max, key=_epochs))
        )
        name = f"{machines} machines: "
        found.append(Figure(f"{name}seconds until all have a trial", few["filling"][-1][0], "s"))
        rate = few["trials"] / few["seconds"]
        found.append(Figure(f"{name}trials a second of {few['epochs']} epochs", rate))
        if few is not many:
            report = (many["cpu"] - few["cpu"]) / (many["reports"] - few["reports"])
            trial = (few["cpu"] - report * few["reports"]) / few["trials"]
            found.append(Figure(f"{name}driver's CPU a report", report, "s"))
            found.append(Figure(f"{name}driver's CPU a trial, beside its reports", trial, "s"))
        gcs = few["gcs_cpu"] / few["trials"]
        found.append(Figure(f"{name}GCS's CPU a trial", gcs, "s"))
        found.append(Figure(f"{name}a look at them", few["look"], "s"))
        found.append(Figure(f"{name}memory of the driver", few["memory"], "B"))
        found.append(Figure(f"{name}memory of the GCS", few["gcs_memory"], "B"))
        found.append(Figure(f"{name}memory of all", few["all_memory"], "B"))
    return found


def _epochs(search: Mapping[str, Any]) -> int:
    return int(search["epochs"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 12], help="of each trial")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds to look at idle machines")
    parser.add_argument("--work", type=Path, help="keeps everything; must be new, its path short")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small: the figures mean nothing")
    parser.add_argument("--step", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.step:
        run, address, *numbers = given.step
        given.out.write_text(json.dumps(drive(Path(run), address, *map(int, numbers))))
        return 0
    if given.quick:
        given.machines, given.trials, given.epochs, given.idle = [2], 6, [2, 3], 2.0
    console = Console(width=None if sys.stdout.isatty() else 160)
    work = given.work or Path(tempfile.mkdtemp(prefix="scale-"))
    work.mkdir(parents=True, exist_ok=True)
    on = machine()
    result = measure(given, work, console)
    all_figures = figures(result)
    console.print(table(f"Machines: {on['cpu']}, {on['cores']} cores", all_figures))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "benchmark": "cluster_scale",
        "quick": given.quick,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": on,
        "figures": [figure.as_data() for figure in all_figures],
        "details": result,
    }
    given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(f"written to {given.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
