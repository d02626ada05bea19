"""`raudio doctor`: what this machine has, what is wrong with it and how to mend it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

#: Distribution -> what needs it.
_PACKAGES = {
    "ray": "search and data",
    "torch": "training",
    "torchaudio": "front ends",
    "optuna": "search",
    "hydra-core": "configuration",
    "pyarrow": "datasets",
    "soundfile": "reading audio",
    "soxr": "resampling",
    "safetensors": "bundles",
}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Checks versions, devices, audio codecs, memory and the cluster; starts nothing.

    Example: raudio doctor
    """
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    found = examine()
    if json:
        print(dumps(found, ensure_ascii=False))
    else:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for section, value in found.items():
            if isinstance(value, dict):
                for name, detail in value.items():
                    table.add_row(f"{section}.{name}", _shown(detail))
            elif section != "problems":
                table.add_row(section, _shown(value))
        console = Console(highlight=False, markup=False)
        console.print(table)
        for problem in found["problems"]:
            console.print(f"problem: {problem}", soft_wrap=True)
        if not found["problems"]:
            console.print("nothing is wrong")
    if found["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything that `doctor` prints, as plain data; `problems` lists what must be mended."""
    import platform

    import raudio
    from raudio.cluster.check import LEAST_SHARED
    from raudio.core import machine
    from raudio.core.storage import cache_dir, cache_free

    problems: list[str] = []
    try:
        free = cache_free()
    except PermissionError as error:
        free = None
        problems.append(str(error))
    shared = machine.shared_memory_free()
    if shared is not None and shared < LEAST_SHARED:
        problems.append(
            f"/dev/shm has {shared / 1e6:.0f} MB free, and Ray keeps decoded audio there: "
            "give it more (docker run --shm-size=4g)"
        )
    return {
        "raudio": raudio.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(problems),
        "cpus": machine.cpus(),
        "memory_bytes": machine.memory_bytes(),
        "shared_memory_bytes": shared,
        "cache": str(cache_dir()),
        "cache_free_bytes": free,
        "devices": _devices(problems),
        "codecs": _codecs(problems),
        "ray": _ray(),
        "problems": problems,
    }


def _versions(problems: list[str]) -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name, purpose in _PACKAGES.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
            problems.append(f"{name} is not installed ({purpose}): pip install --upgrade raudio")
    return found


def _devices(problems: list[str]) -> dict[str, Any]:
    try:
        import torch
        import torchaudio  # noqa: F401 (its library fails to load beside another build of torch)
    except (ImportError, OSError) as error:
        problems.append(
            f"torch and torchaudio can't be loaded ({error}): install both of one version from one "
            "registry, pip install --force-reinstall "
            f"{_required('torch')} {_required('torchaudio')}"
        )
        return {}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "gpus": gpus,
        "bf16": bool(gpus) and torch.cuda.is_bf16_supported(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def _required(package: str) -> str:
    """`package` with the version that raudio asks for."""
    from importlib.metadata import requires

    asked = (text.split(";")[0].strip() for text in requires("raudio") or ())
    return next((text for text in asked if text.split("==")[0] == package), package)


def _codecs(problems: list[str]) -> dict[str, Any]:
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:
        problems.append(f"audio can't be read ({error}): pip install --upgrade soundfile soxr")
        return {}
    known = soundfile.available_formats()
    found = {name: name in known for name in ("WAV", "FLAC", "OGG", "MP3")}
    problems.extend(
        f"soundfile can't read {name}: pip install --upgrade soundfile"
        for name, works in found.items()
        if not works
    )
    return {"libsndfile": soundfile.__libsndfile_version__, "soxr": soxr.__version__, **found}


def _ray() -> dict[str, Any]:
    import os

    return {
        "RAY_ADDRESS": os.environ.get("RAY_ADDRESS"),
        "temporary_folder": os.environ.get("RAY_TMPDIR", "/tmp/ray"),
    }


def _shown(value: Any) -> str:
    from raudio.config.axes import text
    from raudio.core.units import format_bytes

    if isinstance(value, int) and not isinstance(value, bool) and value > 10**6:
        return format_bytes(value)
    return text(value)
