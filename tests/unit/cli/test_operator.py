"""`trainwright operator`: what it begins with, and what it does when it cannot go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainwright.cli.operator import run_operator
from trainwright.cluster.port import ClusterError
from trainwright.controller.lease import LeaseLostError
from trainwright.controller.process import Operator


@pytest.fixture(autouse=True)
def own_signals():
    """Whoever runs the command in this process leaves no handler behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class Replaced(BaseException):
    """Ends the test where the process would go on as another program."""


@pytest.fixture
def programs(monkeypatch):
    """The programs that this process was to be replaced by."""
    seen = []

    def replace(path, arguments):
        seen.append([path, *arguments[1:]])
        raise Replaced

    monkeypatch.setattr(os, "execv", replace)
    # Other tests of this process do use what an operator leaves out.
    monkeypatch.setattr("trainwright.cli.operator._leave_out_what_is_never_used", lambda: None)
    return seen


def ends_with(monkeypatch, error):
    async def run(_):
        raise error

    monkeypatch.setattr(Operator, "run", run)


def test_without_its_lease_it_begins_anew_in_the_same_container(monkeypatch, programs):
    ends_with(monkeypatch, LeaseLostError("not renewed for 10 s"))
    with pytest.raises(Replaced):
        run_operator()
    assert programs == [[sys.executable, *sys.orig_argv[1:]]]


def test_anything_else_ends_it(monkeypatch, programs):
    ends_with(monkeypatch, RuntimeError("broken"))
    with pytest.raises(SystemExit) as ended:
        run_operator()
    assert ended.value.code == 1
    assert programs == []


def test_without_a_cluster_one_line_says_so(monkeypatch, capsys):
    ends_with(monkeypatch, ClusterError("no cluster to connect to"))
    with pytest.raises(SystemExit) as ended:
        run_operator()
    assert ended.value.code == 1
    said = capsys.readouterr()
    (line,) = (said.out + said.err).splitlines()
    assert "no cluster to connect to" in line
    assert "Traceback" not in line


def handles_sigterm(pid):
    """Return whether the process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_it_can_be_stopped_before_it_has_begun():
    """As the first process of its container it would ignore the signal until its own handler is there."""
    command = [sys.executable, "-c", "from trainwright.cli import main; main()", "operator"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not handles_sigterm(process.pid):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.001)
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, ""), "it had begun before it could be stopped"


def test_it_can_be_stopped_while_it_begins_anew():
    script = """
import os, signal, sys
from trainwright.cli.operator import run_operator
from trainwright.controller.lease import LeaseLostError
from trainwright.controller.process import Operator

async def lose(operator):
    operator._catch_signals()
    raise LeaseLostError("not renewed for 10 s")

def replace(path, _, execv=os.execv):
    os.kill(os.getpid(), signal.SIGTERM)
    execv(path, [path, "-c", "from trainwright.cli.operator import run_operator; run_operator()"])

Operator.run, os.execv = lose, replace
run_operator()
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, text=True, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines() + ended.stderr.splitlines()
    assert "operator restarts" in line, "the other had begun before it could be stopped"


def test_it_can_be_stopped_while_it_ends_without_its_lease():
    script = """
import os, signal
from trainwright.cli.operator import run_operator
from trainwright.controller.lease import LeaseLostError
from trainwright.controller.process import Operator

async def lose(operator):
    operator._catch_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    await operator._stop.wait()
    raise LeaseLostError("not renewed for 10 s")

Operator.run = lose
os.execv = lambda *_: print("began anew")
run_operator()
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, text=True, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr


def test_it_is_loaded_without_what_it_never_uses():
    script = """
import sys
from trainwright.cli.operator import _leave_out_what_is_never_used
_leave_out_what_is_never_used()
from trainwright.controller.process import Operator
from kubernetes.aio.config import load_kube_config
print(sorted(name for name in ("google.auth", "kubernetes.client.models", "requests", "rich") if sys.modules.get(name)))
"""
    said = subprocess.run([sys.executable, "-c", script], check=True, text=True, capture_output=True)
    assert said.stdout == "[]\n", said.stdout + said.stderr
