"""Two minutes, or TRAINWRIGHT_CHAOS_MINUTES, of everything that can go wrong on a cluster, in a random order.

Jobs of several kinds train over and over, each to the bits that it ends with undisturbed, while pods, processes,
operators, nodes, checkpoints and the API server fail. An observer with a watch of its own holds everything that it sees
against the rules in `history`. TRAINWRIGHT_CHAOS_SEED repeats an order.
"""

import base64
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator

import faults
import jobs
import kube
import pytest
from fleet import WITNESS, Fleet, witness
from history import History
from mayhem import Mayhem
from observer import Observer
from tally import tally

MINUTES = float(os.environ.get("TRAINWRIGHT_CHAOS_MINUTES", "2"))
SEED = int(os.environ.get("TRAINWRIGHT_CHAOS_SEED", secrets.randbelow(10_000)))
PAUSE = (2.0, 15.0)
"""Seconds between two faults."""
UNDISTURBED = 600
"""Seconds that undisturbed runs may take, all at once on a busy machine."""
PATIENCE = 900
"""Seconds after the last fault within which every job must have come to its end."""
REPORT = kube.ROOT / "runs" / "chaos.md"
TOKEN = "/var/run/secrets/trainwright/token"  # noqa: S105 - a file

pytestmark = pytest.mark.timeout(60 * MINUTES + UNDISTURBED + PATIENCE + 600, func_only=True)


def token_of_witness(namespace: str) -> dict:
    """Return what the token says with which the witness reports."""
    read = f"print(open('{TOKEN}').read())"
    token = kube.kubectl("exec", f"{WITNESS}-0-1", f"--namespace={namespace}", "--", "python", "-c", read)
    claims = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))


@pytest.fixture
def tell(pytestconfig):
    """Takes the lines of the report, which go to a file and to the terminal, whatever else pytest keeps to itself."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def take(lines: list[str]) -> None:
        text = "\n".join([*lines, ""])
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(text)
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\nchaos, also in {REPORT.relative_to(kube.ROOT)}\n{text}")
            sys.stdout.flush()

    return take


@pytest.fixture
def observer(namespace) -> Iterator[Observer]:
    watching = Observer(namespace, History())
    yield watching
    watching.close()


@pytest.fixture
def replicas(operator) -> Iterator[str]:
    """Two operators, one of which works; the value is their namespace."""
    with faults.operator_with(operator, "--set=replicas=2"):
        yield operator


def test_nothing_is_lost_whatever_breaks(replicas, namespace, observer, tell):
    struck, spared = faults.workers()
    faults.control_plane()  # known from before it cannot be asked
    fleet = Fleet(namespace, observer.history)
    fleet.train_undisturbed(UNDISTURBED)
    kube.apply(witness(spared), namespace)
    jobs.wait_for(namespace, WITNESS, jobs.running_at(1), timeout=180)
    first_token = token_of_witness(namespace)

    begin = time.monotonic()
    mayhem = Mayhem(SEED, fleet, observer, replicas, struck)
    try:
        disturb(mayhem, fleet, begin + 60 * MINUTES)
    finally:
        mayhem.end()
    kube.wait_until(lambda: settled(fleet), timeout=PATIENCE, describe=lambda: states(observer))
    calm = jobs.status(namespace, WITNESS)
    last = jobs.wait_for(namespace, WITNESS, jobs.running_at(calm["progress"]["step"] + 1))
    with observer.lock:
        observer.history.close(time.monotonic())
        tell(tally(observer.history, fleet, SEED, time.monotonic() - begin))

    assert mayhem.failures == []
    assert observer.history.violations == []
    assert fleet.lost == []
    assert fleet.finished >= len(fleet.reference)
    # Nothing was done to the witness itself, and it reports with a token that was not there when it began.
    assert (last["restarts"], last["attempt"], last["progress"]["replayedSteps"]) == (0, 1, 0)
    if time.time() > first_token["exp"]:
        assert token_of_witness(namespace)["exp"] > first_token["exp"]


def disturb(mayhem: Mayhem, fleet: Fleet, until: float) -> None:
    """Break things until that time, and see that there is always something to break."""
    due = 0.0
    while time.monotonic() < until:
        tend(fleet)
        if time.monotonic() >= due:
            mayhem.strike()
            due = time.monotonic() + mayhem.random.uniform(*PAUSE)
        mayhem.breathe()


def tend(fleet: Fleet) -> None:
    """Start jobs in the place of those that ended; the API server may be away."""
    with contextlib.suppress(kube.CommandError):
        fleet.tend()


def settled(fleet: Fleet) -> bool:
    """Return whether every job has come to its end."""
    return not fleet.tend(replace=False)


def states(observer: Observer) -> dict[str, str]:
    """Return what the jobs say of themselves."""
    return {name: life.status.get("message", "") for name, life in observer.history.lives.items()}
