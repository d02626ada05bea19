"""The versions that a search depends on, here and where it was submitted."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

from raudio.core.errors import ConfigError

#: What changes results, or does not work in another version.
COMPARED = (
    *("ray", "torch", "torchaudio", "optuna", "hydra-core", "pyarrow", "numpy"),
    *("soundfile", "soxr", "safetensors"),
)


def versions() -> dict[str, str]:
    """Of Python and of the packages that count, without their builds; "none" of what is missing."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in COMPARED:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def compare(submitted: Mapping[str, str]) -> None:
    """Whether this machine has what the submitter had.

    Raises:
        ConfigError: versions differ: all of them.
    """
    here = versions()
    differing = [
        f"{name} {here.get(name, 'none')} instead of {version}"
        for name, version in submitted.items()
        if here.get(name) != version
    ]
    if differing:
        raise ConfigError(
            f"the job's machine differs from the submitter's: {', '.join(differing)}; install "
            "these versions on the nodes, or submit with --packages install, or --packages ignore"
        )


def pins() -> list[str]:
    """What pip is to install on the nodes: what raudio needs but Ray, as it is here.

    Raises:
        ConfigError: raudio is not installed here, so that nobody knows what it needs.
    """
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(each) for each in metadata.requires("raudio") or ()]
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "--packages install: raudio is not installed here, but run from a clone, which does "
            "not say what it needs: pip install -e CLONE"
        ) from error
    names = [
        each.name
        for each in needed
        if each.name != "ray" and (each.marker is None or each.marker.evaluate({"extra": ""}))
    ]
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
