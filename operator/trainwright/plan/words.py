"""Spans of time: as people read them, and as far as a calendar goes."""

from datetime import datetime, timedelta

ENDLESS = 100 * 365 * 86_400.0
"""Seconds that are as good as for ever: whatever takes longer has no date."""


def duration(seconds: float) -> str:
    """Return seconds as kubectl prints ages: 45s, 2m10s, 3h5m, 4d2h."""
    whole = int(seconds)
    for size, unit, part, rest in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            lesser = whole % size // part
            return f"{whole // size}{unit}" + (f"{lesser}{rest}" if lesser else "")
    return f"{whole}s"


def later(moment: datetime, seconds: float) -> datetime | None:
    """Return the moment so many seconds later; None if that is as good as never."""
    return moment + timedelta(seconds=seconds) if seconds < ENDLESS else None
