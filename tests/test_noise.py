"""What libraries say while a search runs goes to its log, and nothing of it to the screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys, warnings
from pathlib import Path
from raudio.cluster.session import _logs_in

with _logs_in(Path(sys.argv[1])):
    logging.getLogger("ray.tune").warning("from Ray")
    logging.getLogger("optuna.samplers").info("from Optuna")
    warnings.warn("from anybody", UserWarning)
warnings.warn("afterwards", UserWarning)
"""


def test_logs_and_warnings_go_to_the_log_while_it_runs_and_to_the_screen_afterwards(
    tmp_path: Path,
) -> None:
    log = tmp_path / "ray.log"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(log)], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "from" not in done.stderr
    assert "afterwards" in done.stderr
    text = log.read_text()
    assert all(f"from {name}" in text for name in ("Ray", "Optuna", "anybody"))
