"""Numbers as people read them."""


def duration(seconds: float) -> str:
    """Return seconds as kubectl prints ages: 45s, 2m10s, 3h5m, 4d2h."""
    whole = int(seconds)
    for size, unit, part, rest in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            lesser = whole % size // part
            return f"{whole // size}{unit}" + (f"{lesser}{rest}" if lesser else "")
    return f"{whole}s"
