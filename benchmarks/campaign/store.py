"""An S3 on loopback, in a process of its own, that fails when it is told to.

It is the tests' own: moto's server behind the proxy of tests/flaky.py.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tests")]

import flaky

from campaign.served import Channel

#: More requests than any benchmark makes.
_ALL = 10**9


def main() -> None:
    channel = Channel()
    with flaky.s3() as front:
        totals: Counter[str] = Counter()

        def count() -> None:
            with front.lock:
                totals.update(method for method, _ in front.requests)
                front.requests.clear()

        def fail(kind: str, seconds: float = 0.0) -> None:
            """From now on every request fails so, until `heal`; see `flaky.Fault`."""
            front.faults[:] = [flaky.Fault(kind, times=_ALL, seconds=seconds)]

        def heal() -> None:
            front.faults.clear()

        def requests() -> dict[str, int]:
            """Requests so far, by their method."""
            count()
            return dict(totals)

        def environment() -> dict[str, Any]:
            return flaky.environment(front)

        channel.serve(
            {"fail": fail, "heal": heal, "requests": requests, "environment": environment}
        )


if __name__ == "__main__":
    main()
