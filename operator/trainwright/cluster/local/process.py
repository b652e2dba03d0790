"""One pod's process on this machine, held by a lifeline: when the line closes, the process and all it started die."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SHIM = Path(__file__).with_name("shim.py")
PID_FILE = "pid"


class PodProcess:
    """A running command under its shim."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> "PodProcess":
        """Start the command in `folder`, in a session of its own, with its output appended to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(SHIM),
                str(folder / PID_FILE),
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=dict(environment),
                # Ctrl-C in the terminal is for the command line, which asks its workers to save and exit.
                start_new_session=True,
            )
        return cls(process)

    def terminate(self) -> None:
        """Ask the command to stop."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """Kill the command and everything that it started."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def wait(self) -> int:
        """Wait until nothing of it is left; return its exit code, 128 + n for signal n."""
        status = await self._process.wait()
        return status if status >= 0 else 128 - status
