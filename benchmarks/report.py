"""What a report of a large run costs: seconds, memory, size.

Run as `python benchmarks/report.py`; see the README beside it. Makes up a run of 10,000 trials and
one of 200, and writes the report of each with the command line. Prints expected and measured
figures and writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from figures import Figure, machine, table
from made_run import make_run
from rich.console import Console

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "report.json"

#: Trials of the large run and of the usual one, and of both where it is only to be seen to work.
LARGE, USUAL = 10_000, 200
QUICK = (300, 20)


def measure(trials: int, work: Path) -> tuple[float, int, int]:
    """Seconds, peak resident bytes, and the page's bytes of one `raudio report`."""
    run = make_run(work / f"run-{trials}", trials)
    command = [sys.executable, "-m", "raudio.cli.main", "report", str(run)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert process.stdout is not None
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    return seconds, usage.ru_maxrss * 1024, (run / "report.html").stat().st_size


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (%(default)s)")
    args = parser.parse_args(argv)
    large, usual = QUICK if args.quick else (LARGE, USUAL)
    on = machine()
    with tempfile.TemporaryDirectory(prefix="raudio-benchmark-") as work:
        seconds, memory, size = measure(large, Path(work))
        small_seconds, _, small_size = measure(usual, Path(work))
    figures = [
        Figure(f"report of {large} trials", seconds, "s", at_most=30),
        Figure(f"its peak memory, {large} trials", memory, "B", at_most=1e9),
        Figure(f"page of {large} trials", size, "B"),
        Figure(f"report of {usual} trials", small_seconds, "s"),
        Figure(f"page of {usual} trials", small_size, "B", at_most=5e6),
    ]
    Console(width=None if sys.stdout.isatty() else 160).print(
        table(f"Report: {on['cpu']}, {on['cores']} cores", figures)
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "report",
        "quick": args.quick,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": on,
        "figures": [figure.as_data() for figure in figures],
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
