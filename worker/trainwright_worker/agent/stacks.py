"""What a rank does at this moment, seen from outside: its state in the kernel, and the stacks of its threads.

A rank that hangs may no longer run Python, so a signal handler in C writes its stacks. If even that cannot run, because the
process is stopped or sleeps in the kernel without reacting to signals, the kernel says so.
"""

import faulthandler
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

DUMP_SIGNAL: Final = signal.SIGUSR1
DUMP_SECONDS: Final = 2.0
"""How long a rank may take to write its stacks, which it does as soon as it is given a processor."""
_POLL_SECONDS: Final = 0.02
_FRAME: Final = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)')
_WAITING_FUNCTIONS: Final = ("_engine_run_backward", "_agree")
"""Where ranks wait for each other or for their device: gradients are brought together while a backward pass runs."""
_PLUMBING: Final = ("/threading.py", "/queue.py", "/concurrent/futures/")
"""Where a thread waits for another thread of its process; the caller of these says more."""
_WAITING_FOLDERS: Final = ("/torch/distributed/", "/torch/cuda/")


class ProcessState(StrEnum):
    """What the kernel says of a process, as far as it matters here."""

    STOPPED = "stopped"
    ASLEEP = "asleep"
    ALIVE = "alive"
    GONE = "gone"


@dataclass(frozen=True)
class Frame:
    """A line of a stack.

    Attributes:
        file: Path of the source.
        line: Line in it.
        function: Function that it is in.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """Return it for people to read, with as much of the path as distinguishes files of the same name."""
        path = "/".join(Path(self.file).parts[-3:]).lstrip("/")
        return f"{self.function} ({path}:{self.line})"

    @property
    def waits(self) -> bool:
        """Whether a rank that stands here waits for other ranks, or for its device."""
        return self.function in _WAITING_FUNCTIONS or any(folder in self.file for folder in _WAITING_FOLDERS)


def answer_with_stacks(scratch: Path, local_rank: int) -> None:
    """Have this process write its stacks whenever the agent asks."""
    faulthandler.register(DUMP_SIGNAL, file=stacks_path(scratch, local_rank).open("w"), all_threads=True)


def ask_for_stacks(pid: int, scratch: Path, local_rank: int) -> str:
    """Return the stacks of all threads of a rank, the newest thread first; empty if it does not answer."""
    path = stacks_path(scratch, local_rank)
    if not path.exists():
        return ""  # It is not ready for the signal, which would end it.
    os.kill(pid, DUMP_SIGNAL)
    deadline = time.monotonic() + DUMP_SECONDS
    text = ""
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        before, text = text, path.read_text(errors="replace")
        if text and text == before:
            break
    return text


def stacks_path(scratch: Path, local_rank: int) -> Path:
    """Return where a rank leaves its stacks."""
    return scratch / f"stacks-{local_rank}.txt"


def main_stack(text: str) -> list[Frame]:
    """Return the frames of the main thread, the innermost first, from stacks as Python prints them."""
    last = re.split(r"^(?:Current thread|Thread) .*$", text, flags=re.MULTILINE)[-1]  # Threads come the newest first.
    found = (_FRAME.match(line) for line in last.splitlines())
    return [Frame(match["file"], int(match["line"]), match["function"]) for match in found if match]


def location_of(frames: Sequence[Frame]) -> str:
    """Return where a thread stands, for people to read; empty if it has no frames."""
    telling = (frame for frame in frames if not any(part in frame.file for part in _PLUMBING))
    return str(next(telling, frames[0])) if frames else ""


def state_of(pid: int) -> ProcessState:
    """Return what the kernel says of a process; alive where there is no kernel to ask."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ProcessState.GONE if Path("/proc/self").exists() else ProcessState.ALIVE
    except OSError:
        return ProcessState.ALIVE
    return {"T": ProcessState.STOPPED, "D": ProcessState.ASLEEP, "Z": ProcessState.GONE, "X": ProcessState.GONE}.get(
        letter, ProcessState.ALIVE
    )


def kernel_function(pid: int) -> str:
    """Return the kernel's function in which a process sleeps; empty if the kernel does not tell."""
    try:
        name = Path(f"/proc/{pid}/wchan").read_text().strip()
    except OSError:
        return ""
    return "" if name == "0" else name[:64]
