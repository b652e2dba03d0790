"""Log lines: one human-readable line per event on stdout, with who speaks in front; and the end of a program."""

import os
import sys
from datetime import UTC, datetime
from typing import NoReturn


def say(who: str, text: str) -> None:
    """Print one line at once.

    Args:
        who: The speaker, for example `rank 0` or `worker 1`.
        text: What happened.
    """
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    sys.stdout.write(f"{moment} [{who}] {text}\n")
    sys.stdout.flush()


def leave(code: int) -> NoReturn:
    """End this program with an exit code, once everything that was printed is written.

    Python would first destroy all objects that the import of torch has created, which takes up to a second of CPU.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
