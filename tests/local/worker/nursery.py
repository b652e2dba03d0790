"""Starts workers fast: imports the worker once, then forks a copy for every one that a test asks for.

A fork runs the same `main` as `python -m trainwright_worker` in a process of its own, only without paying seconds for the
import of torch. Requests come as JSON lines on stdin ({"env": ..., "log": ...}); answers go to stdout: {"started": pid}
for each request, in order, and {"ended": pid, "code": n} as workers end. Ends when stdin does.
"""

import ctypes
import json
import os
import select
import signal
import sys
from typing import Any

import trainwright_worker.agent.worker
import trainwright_worker.rank.workload
from trainwright_worker.__main__ import main

PR_SET_PDEATHSIG = 1


def run_worker(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Tests that are killed leave no workers behind.
    code = main()
    sys.stdout.flush()
    os._exit(code)


def answer(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def serve() -> None:
    assert trainwright_worker.agent.worker
    assert trainwright_worker.rank.workload
    waiting = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.01)
        if readable:
            chunk = os.read(0, 65536)
            if not chunk:
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    try:
                        run_worker(request)
                    finally:
                        os._exit(99)
                answer({"started": pid})
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            continue
        if pid:
            answer({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve()
