"""Batches a second: raudio's feeds, five other ways to load audio, and floors of bare loops.

Run as `python benchmarks/data_throughput.py` on a machine with nothing else to do; see the README
beside it. Every contender runs in fresh processes, one after the other, on the same two cores.
Prints one table, with what is expected beside the figures, and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from figures import machine
from processes import Others
from rich.console import Console
from throughput import clips
from throughput.contenders import CONTENDERS, Contender
from throughput.measure import Job
from throughput.run import Row, Run, run_once
from throughput.tables import judged, table

from raudio.cluster.session import MALLOC
from raudio.data.manifest import Manifest
from raudio.data.pipeline import SEARCHED

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "data_throughput.json"
CORES = 2
PACKAGES = ("soxr", "datasets", "webdataset", "lhotse")
#: Those whose memory matters where the data don't fit the budget, and two to hold them against.
_LARGE = ("floor-encoded-2", "raudio-streamed-1", "raudio-streamed-2", "dataloader")
#: The same for every process that is measured.
_ENVIRONMENT = {
    **MALLOC,
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        embedded: clips of the embedded data to use as S even where FSDD is; 0: none.
        long: clips of L.
        copies: of each of them in L-large.
    """

    embedded: int = 0
    long: int = 320
    copies: int = 5


SMOKE = Size(embedded=160, long=40, copies=2)


@dataclass(frozen=True)
class Set:
    """Data that the contenders run on.

    Attributes:
        name: S, L or L-large.
        title: what it is.
        dataset: as raudio has it.
        clip_seconds: what a model sees of a clip.
        sample_rate: that clips are resampled to.
        budget: `dataset.resident_budget`, where it decides the feed.
        folder: for the contenders' formats, each made when it is first needed.
    """

    name: str
    title: str
    dataset: Manifest
    clip_seconds: float
    sample_rate: int
    budget: str | None
    folder: Path

    @classmethod
    def make(cls, name: str, size: Size, work: Path) -> Set:
        """Makes the data of a set below `work`."""
        folder = work / name
        folder.mkdir()
        if name == "S":
            dataset, title = clips.short_clips(folder / "dataset", size.embedded)
            return cls(name, title, dataset, 1.0, dataset.sample_rate, None, folder)
        copies = size.copies if name == "L-large" else 1
        dataset, title = clips.long_clips(folder / "dataset", work / "long", size.long, copies)
        budget = None
        if name == "L-large":
            budget = f"{dataset.decoded_bytes(16_000, 'int16', SEARCHED) // 10}B"
            title += f", dataset.resident_budget={budget}: a tenth of them decoded"
        return cls(name, title, dataset, 5.0, 16_000, budget, folder)

    def job(self, contender: Contender, number: int, *, epochs: int, watched: bool) -> Job:
        """What a contender's process is told in its run of that number."""
        train = self.dataset.splits["train"]
        files = self.folder / contender.format
        if contender.format and not files.exists():
            files.mkdir()
            clips.FORMATS[contender.format](self.dataset.path, files, train.clips)
        return Job(
            contender=contender.name,
            dataset=self.dataset.path,
            files=str(files),
            sample_rate=self.sample_rate,
            clip_seconds=self.clip_seconds,
            clips=train.clips,
            budget=self.budget,
            consumers=contender.consumers,
            epochs=epochs,
            watched=watched,
            out=str(self.folder / f"{contender.name}-{number}-result.json"),
        )

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        train = self.dataset.splits["train"]
        return {
            "name": self.name,
            "title": self.title,
            "clips": train.clips,
            "seconds": train.seconds,
            "sample_rates": self.dataset.sample_rates,
            "sample_rate": self.sample_rate,
            "clip_seconds": self.clip_seconds,
            "resident_budget": self.budget,
        }


def measure(data: Set, args: argparse.Namespace) -> Iterator[Row | str]:
    """Runs the contenders on a set, repeat by repeat; says before each run what comes, then the
    rows of the table."""
    chosen = [CONTENDERS[name] for name in args.contenders]
    if data.name == "L-large" and not args.chosen:
        chosen = [contender for contender in chosen if contender.name in _LARGE]
    runs: dict[str, list[Run]] = {contender.name: [] for contender in chosen}
    absent = {contender.name: _absence(data, contender) for contender in chosen}
    failed: dict[str, str] = {}
    # Sampling the memory takes time, so it has a run of its own, the last one.
    for number in range(args.repeats + 1):
        watched = number == args.repeats
        for contender in chosen:
            if absent[contender.name] or contender.name in failed:
                continue
            what = "memory" if watched else f"{number + 1} of {args.repeats}"
            yield f"{data.name}  {contender.name}  ({what})"
            try:
                job = data.job(contender, number, epochs=args.epochs, watched=watched)
                runs[contender.name].append(run_once(job, args.timeout))
            except Exception as error:  # one contender's failure is not the others'
                failed[contender.name] = str(error).strip().splitlines()[-1]
                yield f"failed: {error}"
    train = data.dataset.splits["train"]
    for contender in chosen:
        name = contender.name
        yield Row(
            data.name,
            contender,
            runs=[] if name in failed else runs[name],
            seconds=train.seconds / train.clips,
            problem=failed.get(name, absent[name]),
            failed=name in failed,
        )


def _absence(data: Set, contender: Contender) -> str:
    """Why a contender does not run on a set; empty if it does."""
    if contender.needs and find_spec(contender.needs) is None:
        return f"{contender.needs} is not installed; pip install 'raudio[benchmarks]'"
    if contender.trial == "resident" and data.budget is not None:
        return f"the data do not fit the budget of {data.budget}"
    return ""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small, to see that it works")
    parser.add_argument(
        "--set", dest="sets", type=_names(("S", "L", "L-large")), help="S, L, L-large (all)"
    )
    parser.add_argument(
        "--contenders", type=_names(CONTENDERS), help=f"some of {', '.join(CONTENDERS)} (all)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="of each run (%(default)s)")
    parser.add_argument("--repeats", type=int, help="timed runs of each contender (3; smoke: none)")
    parser.add_argument(
        "--timeout", type=float, default=900, help="seconds that a run may take (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (%(default)s)")
    parser.add_argument("--work", type=Path, help="keep data and logs in this new folder")
    args = parser.parse_args(argv)
    if args.epochs < 2:
        parser.error("--epochs: the first epoch is apart, so at least 2")
    args.chosen = args.contenders is not None
    args.contenders = args.contenders or list(CONTENDERS)
    args.sets = args.sets or ["S", "L", "L-large"]
    if args.repeats is None:
        args.repeats = 0 if args.smoke else 3
    return args


def _names(known: Sequence[str] | dict[str, Any]) -> Any:
    """A type of arguments: names of `known`, with commas between them."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _pin() -> list[int]:
    """Keeps this process and all that it starts on the same few cores; which."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    os.environ.update(_ENVIRONMENT)
    # Where contenders' processes, Ray's workers too, find these modules.
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return cores


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, writes the JSON; status 1 if a contender failed."""
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    on = machine(PACKAGES)
    on["pinned"] = _pin()
    size = SMOKE if args.smoke else Size()
    rows: list[Row] = []
    sets = []
    with ExitStack() as stack:
        work = _folder(args, stack)
        others = stack.enter_context(Others())
        for name in args.sets:
            _say(f"{name}  making the data")
            data = Set.make(name, size, work)
            sets.append(data)
            for told in measure(data, args):
                if isinstance(told, Row):
                    rows.append(told)
                else:
                    _say(told)
        on["load_after"] = os.getloadavg()
    figures = judged(rows, others.cores)
    title = f"Data throughput: {on['cpu']}, {len(on['pinned'])} of {on['cores']} cores"
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table(title, rows, figures, args.epochs))
    for row in rows:
        if row.problem:
            console.print(f"{row.data} {row.contender.name}: {row.problem}", markup=False)
    for data in sets:
        console.print(f"{data.name}: {data.dataset.splits['train'].clips} {data.title}")
    console.print(f"cores used by other processes meanwhile: {others.cores:.2f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "data_throughput",
        "smoke": args.smoke,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": on,
        "sets": [data.as_data() for data in sets],
        "rows": [row.as_data() for row in rows],
        "figures": [figure.as_data() for figure in figures.values()],
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    _say(f"written to {args.out}")
    if any(row.failed for row in rows):
        sys.exit(1)


def _folder(args: argparse.Namespace, stack: ExitStack) -> Path:
    if args.work is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raudio-benchmark-")))
    args.work.mkdir(parents=True)
    return Path(args.work).resolve()


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
