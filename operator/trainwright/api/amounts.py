"""Amounts: Kubernetes quantities and durations, read and written the same way everywhere."""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

# Kubernetes needs at most two digits of exponent. Without this bound, parsing a huge exponent could hang.
QUANTITY: Final = r"^[+]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,2})?$"
"""The grammar of a quantity that is not negative: `500m`, `1.5Gi`, `2e3`."""
_SUFFIXES: Final = {
    suffix: Decimal(1000) ** power for power, suffix in enumerate(("n", "u", "m", "", "k", *"MGTPE"), start=-3)
} | {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}

_BYTES: Final = (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SECONDS: Final = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_FOUR_DIGITS: Final = 1000
_ENDLESS: Final = 100 * 365 * 86_400.0
"""Waits of at least this many seconds count as endless, because datetime cannot hold their end."""


def quantity_value(quantity: int | str) -> Decimal:
    """Return the number that a quantity stands for: 0.5 for `500m`.

    Raises:
        ValueError: It is not a quantity.
    """
    number, suffix = _parts(quantity)
    return Decimal(number) * _SUFFIXES[suffix] if suffix in _SUFFIXES else Decimal(number + suffix)


def is_zero_in_cel(quantity: str) -> str:
    """Return a CEL expression that is true if a quantity is zero.

    Args:
        quantity: The quantity as a CEL expression, an integer or a string such as `0`, `0.0` or `0Gi`.
    """
    return f"string({quantity}).matches('^[+]?[0.]+([a-zA-Z].*)?$')"


def multiply_quantity(quantity: int | str, factor: int) -> str:
    """Return a multiple of a quantity, with its own suffix: `4Gi` times 2 is `8Gi`.

    Raises:
        ValueError: It is not a quantity.
    """
    number, suffix = _parts(quantity)
    return f"{(Decimal(number) * factor).normalize():f}{suffix}"


def _parts(quantity: int | str) -> tuple[str, str]:
    found = re.fullmatch(QUANTITY, str(quantity))
    if found is None:
        raise ValueError(f"not a quantity: {quantity}")
    return found[1], found[2] or ""


def bytes_text(number: int) -> str:
    """Return a number of bytes with a binary unit: `1.5 GiB`."""
    for unit, size in _BYTES:
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < _FOUR_DIGITS * size else f"{number / size:,.0f} {unit}"
    return f"{number} B"


def seconds_text(seconds: float) -> str:
    """Return a measured time in the unit that suits it: `3.93 ms`, `16.8 s`."""
    unit, size = next(((unit, size) for unit, size in _SECONDS if seconds >= size), _SECONDS[-1])
    return f"{seconds / size:.3g} {unit}" if seconds < _FOUR_DIGITS * size else f"{seconds / size:,.0f} {unit}"


def duration_text(seconds: float) -> str:
    """Return a span of time as kubectl prints ages: `45s`, `2m10s`, `3h5m`, `4d2h`."""
    whole = int(seconds)
    for size, unit, part, rest in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            lesser = whole % size // part
            return f"{whole // size}{unit}" + (f"{lesser}{rest}" if lesser else "")
    return f"{whole}s"


def clock_text(seconds: float) -> str:
    """Return a span of time as a stopwatch shows it: `m:ss`, or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def is_endless(seconds: float) -> bool:
    """Return whether a wait lasts a hundred years or more."""
    return seconds >= _ENDLESS


def later(moment: datetime, seconds: float) -> datetime | None:
    """Return the moment that many seconds later; None if the wait is endless."""
    return None if is_endless(seconds) else moment + timedelta(seconds=seconds)
