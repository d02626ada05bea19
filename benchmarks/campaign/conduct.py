"""A campaign: a search on a cluster and a store of its own, and the faults that strike it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign import plan as kinds
from campaign.driver import Driver
from campaign.plan import Fault
from campaign.served import Served
from campaign.steps import Step, steps

HERE = Path(__file__).parent

#: Machines beside the head, which has no CPU for trials or data.
MACHINES = 4
HEAD = {"num_cpus": 0, "object_store_memory": 100 * 10**6}
MACHINE = {"num_cpus": 2, "memory": 3 * 10**9, "object_store_memory": 200 * 10**6}

#: Seconds after which a machine that is gone is replaced, and a driver's run gone on with.
_REPLACED, _RESUMED = 4.0, 1.0
#: Seconds in which a driver must end whose cluster is gone, or that is told to end.
_PATIENCE = 180.0
#: Seconds after its driver's end in which a trial's process must be gone.
_ORPHANED = 30.0
#: Seconds after a search in which what it had in the object stores must be gone.
_EMPTIED = 30.0
#: Seconds that a slow store takes for each request.
_SLOW = 1.0


@dataclass
class Struck:
    """A fault that has struck: what, when (Unix seconds), whom, and the exit status of the driver
    that it ended."""

    kind: str
    time: float
    whom: str
    status: int | None = None


@dataclass
class Course:
    """What happened in a search.

    Attributes:
        began, ended: Unix seconds, of the first driver's start and the last one's end.
        struck: the faults, in their order.
        left: the kinds of faults that never struck.
        drivers: started in all.
        ended_badly: what drivers said that ended though nobody ended them.
        orphans: processes of trials that outlived their driver.
        stored: what the object stores of all machines hold after the end.
        requests: to the store, by their method.
        steps: that were made.
    """

    began: float = 0.0
    ended: float = 0.0
    struck: list[Struck] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    drivers: int = 0
    ended_badly: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    stored: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


class Campaign:
    """Runs searches to their ends while faults strike them, one after the other on one cluster.

    Args:
        work: a folder for everything but the runs.
        arguments: of `raudio search`, without the run and the cluster.
        rest: seconds that each optimizer step waits.
        environment: of all processes.
        store: which the store's faults go to.
        say: told what happens.
    """

    def __init__(
        self,
        work: Path,
        arguments: Sequence[str],
        *,
        rest: float,
        environment: Mapping[str, str],
        store: Served,
        say: Callable[[str], None],
    ) -> None:
        self._work, self._store, self._say = work, store, say
        self._arguments = list(arguments)
        self._run = ""
        self._notes = work / "notes"  # a link to those of the search that runs
        self._environment = {
            **environment,
            "WATCHED_NOTES": str(self._notes),
            "WATCHED_REST": str(rest),
            "RAY_TMPDIR": str(work / "ray"),  # which also keeps `address=auto` of others theirs
        }
        self._machines = self._cluster()
        self._added = 0
        self._frozen: set[str] = set()
        self._driver: Driver | None = None
        self._killed = False  # the driver, by us
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._watched: list[tuple[float, dict[int, str]]] = []
        self._drivers = 0
        self.course = Course()

    def __enter__(self) -> Campaign:
        for _ in range(MACHINES):
            self._add()
        return self

    def __exit__(self, *error: object) -> None:
        if self._driver is not None and self._driver.status is None:
            self._driver.signal(signal.SIGKILL)
        self._machines.__exit__(None, None, None)

    def search(self, run: str, faults: Sequence[Fault], whole: int, limit: float) -> Course:
        """Runs a search.

        Args:
            run: a folder, or a URI.
            faults: in their order.
            whole: steps of the undisturbed search.
            limit: seconds.

        Raises:
            RuntimeError: it did not end in time, or its drivers end again and again.
        """
        course, waiting = Course(), list(faults)
        self.course, self._run = course, run
        notes = self._work / f"notes-of-{run.rpartition('/')[2]}"
        notes.mkdir()
        self._notes.unlink(missing_ok=True)
        self._notes.symlink_to(notes.absolute())
        before = self._store.ask("requests")
        course.began = time.time()
        self._start("search", *self._arguments, f"run.dir={run}")
        while not self._over():
            if time.time() - course.began > limit:
                raise RuntimeError(f"not at its end after {limit:.0f} s")
            for moment, action in sorted(self._due, key=lambda each: each[0]):
                if moment <= time.time():
                    self._due = [each for each in self._due if each[1] is not action]
                    action()
            self._look_for_orphans()
            made = sum(not step.again for step in steps(self._notes))
            # One whose time has come may have nothing to hit yet: the next one goes before it.
            for fault in [each for each in waiting if made >= each.at * whole]:
                whom = self._strike(fault)
                if whom is not None:
                    self._say(f"{fault.kind}: {whom}")
                    waiting.remove(fault)
                    break
            time.sleep(0.2)
        course.ended = time.time()
        asked = self._store.ask("requests")
        course.requests = {method: asked[method] - before.get(method, 0) for method in asked}
        course.left = [fault.kind for fault in waiting]
        while self._due:  # what was cut off comes back
            self._due.pop(0)[1]()
        while self._watched:
            self._look_for_orphans()
            time.sleep(0.5)
        course.stored = self._left_in_stores()
        course.steps = steps(self._notes)
        return course

    def _left_in_stores(self) -> dict[str, int]:
        """What the object stores hold, once Ray has had time to remove what its driver had."""
        deadline = time.time() + _EMPTIED
        while True:
            found: dict[str, int] = self._machines.ask("stored")
            if not any(found.values()) or time.time() > deadline:
                return found
            time.sleep(0.5)

    # --- the search ----------------------------------------------------------------------------

    def _start(self, *arguments: str) -> None:
        self.course.drivers += 1
        self._drivers += 1
        self._killed = False
        self._driver = Driver(
            [*arguments, f"cluster.address={self._machines.ask('address')}"],
            self._work / f"driver-{self._drivers}",
            self._environment,
        )

    def _over(self) -> bool:
        """Whether the search has come to its end. A driver that ended before it is replaced."""
        if self._driver is None or self._driver.status is None:
            return False
        driver, self._driver = self._driver, None
        if driver.status == 0:
            return True
        if driver.status == 2:
            raise RuntimeError(f"a driver refused: {driver.last_words}")
        if self._killed:
            last = next(each for each in reversed(self.course.struck) if each.kind in kinds.ENDING)
            last.status = driver.status
        else:
            words = f"exit status {driver.status}: {driver.last_words}"
            self._say(f"the driver ended: {words}")
            self.course.ended_badly.append(words)
            if len(self.course.ended_badly) > 5:
                raise RuntimeError(f"its drivers end again and again; see {driver.log}")
        # What it ran must go; a machine that stands still can't.
        self._watched.append((time.time() + _ORPHANED, self._of_trials()))
        self._later(_RESUMED, lambda: self._start("resume", self._run))
        return False

    def _of_trials(self) -> dict[int, str]:
        """The processes of trials, and those that decode for them."""
        return {
            process: command
            for name in self._machines.ask("names")
            if name not in self._frozen
            for process, command in self._processes(name).items()
            if _is_trial(command) or _is_data(command)
        }

    def _look_for_orphans(self) -> None:
        for deadline, family in list(self._watched):
            left = {p: c for p, c in family.items() if Path(f"/proc/{p}").exists() and not _dead(p)}
            if not left or time.time() > deadline:
                self._watched.remove((deadline, family))
                self.course.orphans += [f"{process} {command}" for process, command in left.items()]

    # --- the cluster ---------------------------------------------------------------------------

    def _cluster(self) -> Served:
        return Served(
            HERE / "machines.py",
            json.dumps({"head": HEAD, "node": MACHINE}),
            log=self._work / "machines.txt",
            environment={**os.environ, **self._environment},
        )

    def _add(self) -> None:
        self._machines.ask("add", name=f"machine-{self._added}")
        self._added += 1

    def _processes(self, name: str) -> dict[int, str]:
        found: dict[str, str] = self._machines.ask("processes", name=name)
        return {int(process): command for process, command in found.items()}

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._due.append((time.time() + seconds, action))

    # --- the faults ----------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> str | None:
        """Lets a fault strike; whom. None: it cannot now, as nothing that it could hit is there."""
        if self._driver is None or self._driver.status is not None:
            return None
        now = time.time()
        if fault.kind in kinds.STORE:
            whom = self._fail_store(fault)
        elif fault.kind in (kinds.TRIAL, kinds.DATA):
            whom = self._kill_process(fault)
        elif fault.kind in (kinds.KILLED, kinds.DRAINED, kinds.FROZEN):
            whom = self._take_machine(fault)
        elif fault.kind == kinds.CLUSTER:
            whom = self._lose_cluster()
        else:
            number = signal.SIGKILL if fault.kind == kinds.DRIVER else signal.SIGTERM
            self._killed = True
            self._driver.signal(number)
            whom = f"process {self._driver.process.pid}"
        if whom is not None:
            self.course.struck.append(Struck(fault.kind, now, whom))
        return whom

    def _fail_store(self, fault: Fault) -> str:
        store = self._store
        store.ask("fail", kind=kinds.STORE[fault.kind], seconds=_SLOW)
        self._later(fault.seconds, lambda: store.ask("heal"))
        return f"for {fault.seconds:.1f} s"

    def _kill_process(self, fault: Fault) -> str | None:
        right = _is_trial if fault.kind == kinds.TRIAL else _is_data
        found = [
            (process, name)
            for name in self._awake()
            for process, command in self._processes(name).items()
            if right(command)
        ]
        if not found:
            return None
        process, name = found[int(fault.luck * len(found))]
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return f"process {process} on {name}"

    def _take_machine(self, fault: Fault) -> str | None:
        """Mostly one that trains."""
        awake = self._awake()
        if len(awake) < 2:
            return None
        training = [n for n in awake if any(map(_is_trial, self._processes(n).values()))]
        if not training:
            return None
        among = training if fault.luck < 0.8 else awake
        name = among[int(fault.luck * 997) % len(among)]
        machines = self._machines

        def kill() -> None:
            machines.ask("kill", name=name)
            self._frozen.discard(name)
            self._later(_REPLACED, self._add)

        def thaw() -> None:
            machines.ask("thaw", name=name)
            self._later(5.0, kill)

        if fault.kind == kinds.KILLED:
            kill()
            return name
        self._frozen.add(name)  # from now on no other fault hits it
        if fault.kind == kinds.DRAINED:
            machines.ask("drain", name=name, seconds=fault.seconds)
            self._later(fault.seconds, kill)
            return f"{name}, {fault.seconds:.1f} s before"
        machines.ask("freeze", name=name)
        self._later(fault.seconds, thaw)
        return f"{name}, for {fault.seconds:.1f} s"

    def _lose_cluster(self) -> str | None:
        if self._due or self._killed:
            return None  # what is on its way happens to this cluster, and to this driver
        assert self._driver is not None
        self._machines.ask("lose")
        self._machines.__exit__(None, None, None)
        self._killed = True
        deadline = time.time() + _PATIENCE
        while self._driver.status is None and time.time() < deadline:
            time.sleep(0.2)
        if self._driver.status is None:
            self.course.ended_badly.append("a driver hung whose cluster was gone")
            self._driver.signal(signal.SIGKILL)
        self._machines = self._cluster()
        for _ in range(MACHINES):
            self._add()
        return f"head and {MACHINES} machines"

    def _awake(self) -> list[str]:
        return [name for name in self._machines.ask("names") if name not in self._frozen]


def _is_trial(command: str) -> bool:
    return command.startswith("ray::ImplicitFunc")


def _is_data(command: str) -> bool:
    return command.startswith("ray::MapBatches")


def _dead(process: int) -> bool:
    """Gone, or a zombie that its parent has not looked after yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def as_data(course: Course) -> dict[str, Any]:
    """A course for JSON, with the number of its steps."""
    return {
        **vars(course),
        "steps": len(course.steps),
        "struck": [vars(each) for each in course.struck],
        "stored": dict(course.stored),
        "requests": dict(course.requests),
    }
