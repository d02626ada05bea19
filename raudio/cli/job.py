"""What a submitted job runs: `python -m raudio.cli.job search ...`, in the job's working directory.

It takes up what it was told there, compares versions, and is then the command that follows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Runs the command; exit status as `raudio.cli.main`."""
    from raudio.cli import main as command_line
    from raudio.cluster import environment, packages
    from raudio.cluster.package import JOB
    from raudio.core.errors import ConfigError
    from raudio.progress import RECORDS_WANTED

    told = json.loads(Path(JOB).read_text())
    environment.give(told["environment"])
    if told["records"]:
        os.environ[RECORDS_WANTED] = "1"
    try:
        packages.compare(told["versions"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv[0] = "raudio"
    command_line.main()


if __name__ == "__main__":
    main()
