"""Log lines: one human-readable line per event on stdout, with who speaks in front."""

import sys
from datetime import UTC, datetime


def say(who: str, text: str) -> None:
    """Print one line at once.

    Args:
        who: The speaker, for example `rank 0` or `worker 1`.
        text: What happened.
    """
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    sys.stdout.write(f"{moment} [{who}] {text}\n")
    sys.stdout.flush()
