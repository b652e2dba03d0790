"""Writes log lines to stdout, one per event, and ends a program."""

import os
import sys
from datetime import UTC, datetime
from typing import NoReturn


def say(who: str, text: str) -> None:
    """Print one line at once.

    Args:
        who: The process that the line is about, for example `rank 0` or `worker 1`.
        text: What happened.
    """
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    sys.stdout.write(f"{moment} [{who}] {text}\n")
    sys.stdout.flush()


def leave(code: int) -> NoReturn:
    """Write all buffered output and end this program with an exit code.

    Python would first destroy all objects that the import of torch has created, which takes up to a second of CPU.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
