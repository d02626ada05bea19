"""Units in types, and the short texts that people write for them ("5m", "2GB")."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from raudio.core.errors import ConfigError

Seconds: TypeAlias = float
Hertz: TypeAlias = float
Decibels: TypeAlias = float

_TIME = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: What nobody waits for, and clocks do not count: a century.
_LONGEST: Seconds = 100 * 365 * 86400.0
_SIZE = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_seconds(value: str | float, where: str = "time") -> Seconds:
    """Seconds from a number or a text such as "90", "90s", "5m", "1.5h", "1h30m".

    Raises:
        ConfigError: the text is none of these, not positive, or more than a century.
    """
    text = str(value).strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"{where}={value!r} is not a time; write 90s, 5m, 1.5h or 1h30m")
    seconds = sum(float(number) * _TIME[unit or "s"] for number, unit in parts)
    if seconds <= 0:
        raise ConfigError(f"{where}={value!r} must be positive; write 90s, 5m or 1.5h")
    if seconds > _LONGEST:
        raise ConfigError(f"{where}={value!r} is more than a century; write 90s, 5m or 1.5h")
    return seconds


def parse_interval(value: str, where: str = "interval") -> tuple[int | None, Seconds | None]:
    """(steps, seconds), one of them None, from a text such as "200 steps", "90s" or "5m".

    Raises:
        ConfigError: the text is none of these, or not positive.
    """
    match = re.fullmatch(r"(\d+) *steps?", str(value).strip())
    if match and int(match[1]):
        return int(match[1]), None
    try:
        return None, parse_seconds(value)
    except ConfigError:
        raise ConfigError(
            f"{where}={value!r} is neither a time nor a number of steps; write 90s, 5m or "
            "'200 steps'"
        ) from None


def parse_bytes(value: str | int, where: str = "size") -> int:
    """Bytes from a number or a text such as "512MB", "2GB" (powers of ten).

    Raises:
        ConfigError: the text is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", str(value).strip(), re.IGNORECASE)
    if not match:
        raise ConfigError(f"{where}={value!r} is not a size; write 512MB or 2GB")
    return int(float(match[1]) * _SIZE[(match[2] or "B").upper()])


def format_seconds(seconds: Seconds) -> str:
    """`5.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_bytes(count: float) -> str:
    """`512 B`, `20.1 MB`, `2.0 GB` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_value(value: Any) -> str:
    """A number with four significant digits, anything else as it is, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
