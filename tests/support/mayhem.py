"""A seeded schedule of faults: what is done next, to whom, and how long it lasts."""

import contextlib
import random
import signal
import threading
from collections.abc import Callable

import faults
import jobs
import kube
from fleet import Fleet
from history import Fault
from observer import Observer

Act = Callable[["Mayhem", str], None]


class Mayhem:
    """Breaks things in a random order in which every kind of fault has its turn.

    Args:
        seed: Decides everything that is random here.
        fleet: The jobs.
        observer: Told of each fault before it happens.
        operator: Namespace of the operator.
        node: The node that may be taken away.

    Attributes:
        failures: What could not be done as it should, or undone.
    """

    def __init__(self, seed: int, fleet: Fleet, observer: Observer, operator: str, node: str) -> None:
        self.random = random.Random(seed)
        self.fleet = fleet
        self.observer = observer
        self.operator = operator
        self.node = node
        self.failures: list[str] = []
        self._bag: list[str] = []
        self._long: threading.Thread | None = None
        self._calm = threading.Event()

    def strike(self) -> None:
        """Do the next thing. What takes long goes on beside what follows, one at a time."""
        if not self._bag:
            self._bag = [kind for kind, (times, _) in ACTS.items() for _ in range(times)]
            self.random.shuffle(self._bag)
        busy = self._long is not None and self._long.is_alive()
        kind = next((kind for kind in self._bag if not busy or kind not in LONG), None)
        if kind is None or not faults.api_answers():
            return
        self._bag.remove(kind)
        if kind in LONG:
            self._long = threading.Thread(target=self._act, args=(kind,), daemon=True)
            self._long.start()
        else:
            self._act(kind)

    def breathe(self) -> None:
        """Wait for a moment."""
        self._calm.wait(0.5)

    def end(self) -> None:
        """Let what goes on come to its end, and wait for that."""
        self._calm.set()
        if self._long is not None:
            self._long.join(300)
        kube.wait_until(faults.api_answers, timeout=180, describe=lambda: "the API server does not come back")

    def _act(self, kind: str) -> None:
        try:
            ACTS[kind][1](self, kind)
        except LookupError:
            self._bag.append(kind)  # Nobody was there to do it to: another time.
        except kube.CommandError:
            pass  # What it was aimed at is gone by now, or the cluster too busy to be asked.
        except AssertionError as error:
            self.failures.append(f"{kind}: {error}")

    def _struck(self, kind: str, job: str | None = None) -> None:
        with self.observer.lock:
            self.observer.history.struck(Fault(kind, job))

    def _victim(self) -> str:
        with self.observer.lock:
            return self.random.choice(sorted(self.fleet.victims()))

    def _pod(self, name: str, *, first: bool | None = None) -> str:
        """Return a pod of the job that lives: worker 0's, another's, or any."""
        pods = [
            pod["metadata"]["name"]
            for pod in jobs.pods(self.fleet.namespace, name)
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
        chosen = [pod for pod in pods if first is None or (pod.split("-")[-2] == "0") == first]
        return self.random.choice(sorted(chosen))

    # -- What lasts no time --------------------------------------------------------------------------------------------

    def delete_pod(self, kind: str, *, first: bool, force: bool) -> None:
        """Delete a pod of some job."""
        name = self._victim()
        pod = self._pod(name, first=first)
        self._struck(kind, name)
        faults.delete_pod(self.fleet.namespace, pod, force=force)

    def signal_rank(self, kind: str, number: int) -> None:
        """Send a signal to a rank of some job."""
        name = self._victim()
        pod = self._pod(name)
        self._struck(kind, name)
        faults.signal_rank(self.fleet.namespace, pod, number)

    def corrupt_checkpoint(self, kind: str) -> None:
        """Spoil the newest checkpoint of some job, and kill a rank so that it is needed."""
        name = self._victim()
        pod = self._pod(name)
        folder = self.fleet.newest_checkpoint(name)
        self._struck(kind, name)
        with contextlib.suppress(FileNotFoundError, ValueError):  # a newer one has taken its place
            largest = max(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)
            with largest.open("r+b") as file:
                file.seek(-16, 2)
                file.write(bytes(range(16)))
        faults.signal_rank(self.fleet.namespace, pod, signal.SIGKILL)

    def kill_operators(self, kind: str) -> None:
        """Kill all operators at once."""
        self._struck(kind)
        faults.kill_operators(self.operator)

    def kill_leader(self, kind: str) -> None:
        """Kill the operator that leads."""
        self._struck(kind)
        faults.kill_leader(self.operator)

    # -- What lasts ----------------------------------------------------------------------------------------------------

    def suspend(self, kind: str) -> None:
        """Suspend some job for a while."""
        name = self._victim()
        self._struck(kind, name)
        for wanted in ("true", "false"):
            patch = f'--patch={{"spec":{{"suspend":{wanted}}}}}'
            self._insist("patch", "tj", name, f"--namespace={self.fleet.namespace}", "--type=merge", patch)
            self._calm.wait(self.random.uniform(5, 20))

    def crash_api_server(self, kind: str) -> None:
        """Kill the API server."""
        self._struck(kind)
        faults.crash_api_server()
        faults.await_api_server()

    def restart_api_server(self, kind: str) -> None:
        """Have the API server restarted."""
        self._struck(kind)
        faults.restart_api_server()
        faults.await_api_server()

    def drain(self, kind: str) -> None:
        """Drain the node for a while."""
        self._struck(kind)
        with faults.drained(self.node):
            self._calm.wait(self.random.uniform(5, 30))

    def silence(self, kind: str) -> None:
        """Stop the node where it stands: for moments, or for long enough that the cluster gives it up."""
        self._struck(kind)
        with faults.silenced(self.node):
            self._calm.wait(self.random.choice((15, 120)))

    def _insist(self, *args: str) -> None:
        def done() -> str:
            return kube.kubectl(*args)

        kube.wait_until(done, timeout=120, describe=lambda: "refused")


ACTS: dict[str, tuple[int, Act]] = {
    "worker 0's pod deleted": (1, lambda m, kind: m.delete_pod(kind, first=True, force=False)),
    "another pod deleted": (1, lambda m, kind: m.delete_pod(kind, first=False, force=False)),
    "worker 0's pod force-deleted": (1, lambda m, kind: m.delete_pod(kind, first=True, force=True)),
    "another pod force-deleted": (1, lambda m, kind: m.delete_pod(kind, first=False, force=True)),
    "rank killed": (3, lambda m, kind: m.signal_rank(kind, signal.SIGKILL)),
    "rank paused": (1, lambda m, kind: m.signal_rank(kind, signal.SIGSTOP)),
    "newest checkpoint corrupted": (1, Mayhem.corrupt_checkpoint),
    "job suspended": (1, Mayhem.suspend),
    "all operators killed": (1, Mayhem.kill_operators),
    "leading operator killed": (1, Mayhem.kill_leader),
    "API server killed": (1, Mayhem.crash_api_server),
    "API server restarted": (1, Mayhem.restart_api_server),
    "node drained": (1, Mayhem.drain),
    "node paused": (1, Mayhem.silence),
}
"""By kind of fault: how often it comes up before any of them comes up anew, and what it is."""
LONG = {"job suspended", "API server killed", "API server restarted", "node drained", "node paused"}
"""Those that take their time."""
