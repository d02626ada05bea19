"""What a benchmark says: figures beside what was expected of them, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

from raudio.core.units import format_bytes

PACKAGES = ("raudio", "torch", "torchaudio", "ray", "optuna", "numpy", "pyarrow", "soundfile")


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: in `unit` ("s", "B", or "" for a number).
        at_most, at_least: the bound that is expected, if any.
        note: what belongs to it.
    """

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`pass`, `falls short`, or nothing where nothing is expected."""
        if self.at_most is None and self.at_least is None:
            return ""
        high = self.at_most is not None and self.value > self.at_most
        low = self.at_least is not None and self.value < self.at_least
        return "falls short" if high or low else "pass"

    def as_row(self) -> tuple[str, str, str, str, str]:
        """Its cells in the table."""
        sign, bound = self._bound
        expected = f"{sign} {self._text(bound)}" if bound is not None else ""
        verdict = f"[{self._style}]{self.verdict}[/]"
        return self.name, expected, self._text(self.value), verdict, self.note

    def as_cell(self) -> str:
        """Its cell in a column whose heading has the unit: the value and what is expected of it."""
        sign, bound = self._bound
        expected = f" {sign}{self._number(bound)}" if bound is not None else ""
        return f"[{self._style}]{self._number(self.value)}{expected}[/]"

    def as_data(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**vars(self), "verdict": self.verdict or None}

    @property
    def _bound(self) -> tuple[str, float | None]:
        return ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)

    @property
    def _style(self) -> str:
        return {"pass": "green", "falls short": "bold red"}.get(self.verdict, "none")

    def _text(self, value: float) -> str:
        text = self._number(value)
        return text if self.unit == "B" else f"{text} {self.unit}".rstrip()

    def _number(self, value: float) -> str:
        return format_bytes(round(value)) if self.unit == "B" else f"{value:.3g}"


def table(title: str, figures: Sequence[Figure]) -> Table:
    """Figures as a table for a terminal."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("measure", "expected", "measured", "", "note"):
        right = heading in ("expected", "measured")
        made.add_column(heading, justify="right" if right else "left", overflow="fold")
    for figure in figures:
        made.add_row(*figure.as_row())
    return made


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """What the figures were measured on; `packages`: whose versions matter besides `PACKAGES`."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next((line for line in cpu.splitlines() if line.startswith("model name")), ":")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*PACKAGES, *packages)},
        "commit": commit.stdout.strip() or None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
