"""Like the shim of a container runtime: runs one command and leaves none of its processes behind.

Runs as a program of its own with nothing but the standard library: `python -I -S shim.py PIDFILE COMMAND...`. Its standard
input is a lifeline that whoever started it holds open. When that closes, because a pod is killed or because the
command line itself was, everything that the command started dies. The training processes have sessions of their own, so
killing a process group would miss them; a subreaper inherits them instead.

SIGTERM goes on to the command alone, which stops its own processes in its own way. The exit status is the command's, 128 + n
for signal n.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CANNOT_EXECUTE = 126


def main(pid_file: str, command: list[str]) -> int:
    """Run the command to its end, or to the end of the lifeline, and return its exit status."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup, asked_to_stop = _wake_on_signals()
    child = os.fork()
    if child == 0:
        _become(command)
    Path(pid_file).write_text(str(child))
    lifeline = sys.stdin.fileno()
    status = None
    while status is None:
        ready, _, _ = select.select([lifeline, wakeup], [], [])
        if lifeline in ready and not os.read(lifeline, 4096):
            break
        if wakeup in ready:
            os.read(wakeup, 4096)
        if asked_to_stop:
            asked_to_stop.clear()
            _send(child, signal.SIGTERM)
        status = _reap(child)
    killed = _kill_all(child)
    return _exit_code(killed if status is None else status)


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _wake_on_signals() -> tuple[int, list[int]]:
    """Return a file descriptor that becomes readable whenever a signal arrives, and the requests to stop so far."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    requests: list[int] = []
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _: requests.append(number))
    return reading, requests


def _become(command: list[str]) -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        os.execvp(command[0], command)  # noqa: S606 - running a command is what a shim is for
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
        os._exit(CANNOT_EXECUTE)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(child: int) -> int | None:
    """Collect every process that has ended; return the status of `child` if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return found
            if pid == child:
                found = status
    return found


def _kill_all(child: int) -> int:
    """Kill every descendant until none is left; return the status of `child` if it was still alive."""
    found = signal.SIGKILL.value
    while True:
        for pid in _descendants():
            _send(pid, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return found
        if pid == child:
            found = status


def _descendants() -> list[int]:
    """Return all processes below this one, children before their own children."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _parents() -> list[tuple[int, int]]:
    """Return the parent of every process on this machine."""
    if Path("/proc/self/stat").exists():
        pairs = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # The name of the program, in parentheses, may hold spaces and parentheses itself.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                pairs.append((int(folder.name), int(fields[1])))
        return pairs
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    return [(int(pid), int(parent)) for pid, parent in (line.split() for line in listing.stdout.splitlines())]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
