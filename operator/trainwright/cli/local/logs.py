"""Follows the log files of a run, each line under the name of the worker that wrote it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

_INTERVAL = 0.2


async def follow(folder: Path, positions: dict[Path, int], tell: Callable[[str, str], None]) -> None:
    """Call `tell(pod, line)` for every line that is written to any pod's log after `positions`, until cancelled."""
    try:
        while True:
            read_new_lines(folder, positions, tell)
            await asyncio.sleep(_INTERVAL)
    finally:
        read_new_lines(folder, positions, tell)


def ends(folder: Path) -> dict[Path, int]:
    """Return where each log ends now."""
    return {path: path.stat().st_size for path in folder.glob("*.log")}


def read_new_lines(folder: Path, positions: dict[Path, int], tell: Callable[[str, str], None]) -> None:
    """Tell the complete lines after the known positions, and move these on."""
    for path in sorted(folder.glob("*.log")):
        if path.stem == "controller":
            continue
        with path.open("rb") as log:
            log.seek(positions.get(path, 0))
            whole, newline, _ = log.read().rpartition(b"\n")
        if newline:
            positions[path] = positions.get(path, 0) + len(whole) + 1
            for line in whole.decode(errors="replace").splitlines():
                tell(path.stem, line)
