"""How amounts are written wherever people read them: the same in a report of the worker and on the command line."""

from typing import Final

_BYTES: Final = (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SECONDS: Final = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_FOUR_DIGITS: Final = 1000


def bytes_text(number: int) -> str:
    """Return bytes as Kubernetes writes quantities: `1.5 GiB`."""
    for unit, size in _BYTES:
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < _FOUR_DIGITS * size else f"{number / size:,.0f} {unit}"
    return f"{number} B"


def seconds_text(seconds: float) -> str:
    """Return a duration in the unit that suits it: `3.93 ms`, `16.8 s`."""
    unit, size = next(((unit, size) for unit, size in _SECONDS if seconds >= size), _SECONDS[-1])
    return f"{seconds / size:.3g} {unit}" if seconds < _FOUR_DIGITS * size else f"{seconds / size:,.0f} {unit}"
