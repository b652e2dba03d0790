"""The measures of the control plane, one function each. Every one cleans up after itself unless the next builds on it."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from children import LABEL_BARE, BareChildren, apply, clear, delete_all, job, make_namespace
from client import Client, Manifest, PodRecord, Recorder, gather
from operating import Meter, Operator
from plane import Plane
from reporting import Reporters
from table import Row, high, median

WIDE = 1000
SMALL_JOBS = 60
UNRELATED = 10_000
REPORT_SECONDS = 110.0
IDLE_SECONDS = 20.0
_BARE_NAMESPACE = "bare"
_LOST = 69
"""An exit code of class Infrastructure."""


@dataclass
class Bench:
    """What every measure works with.

    Attributes:
        admin: The bench's own client.
        bare: The client that shows what the API server can do.
        seen: All pods of jobs, and all jobs.
        many: How many jobs run at once.
        template: Makes the bare client's copies of children; set once there was a job to copy.
        rows: What was measured so far.
    """

    plane: Plane
    operator: Operator
    admin: Client
    bare: Client
    seen: Recorder
    many: int = 1000
    template: BareChildren | None = None
    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, seen: float, wanted: float | None, unit: str, **more: Any) -> None:
        """Keep a figure, and print it at once."""
        row = Row(what, seen, wanted, unit, **more)
        self.rows.append(row)
        print("  " + " · ".join(cell for cell in row.cells() if cell), flush=True)  # noqa: T201


async def idle(bench: Bench) -> None:
    """Memory and CPU before there was any job."""
    await asyncio.sleep(3)
    with Meter(bench.operator.process) as meter:
        await asyncio.sleep(10)
    bench.add("memory without jobs", bench.operator.process.memory(), None, "MiB")
    bench.add("CPU without jobs", meter.percent, 2, "%")


async def small(bench: Bench) -> None:
    """Small jobs, one a second, beside the same objects by a bare client; and what a whole lifecycle costs."""
    namespace = "lifecycles"
    await make_namespace(bench.admin, namespace)
    await _warm_up(bench, namespace)
    bare = Recorder(bench.bare, LABEL_BARE, jobs=False)
    await bare.start()
    before = len(bench.plane.writes())
    applied: dict[str, float] = {}
    floor: dict[str, float] = {}
    with Meter(bench.operator.process) as meter:
        for number in range(SMALL_JOBS):
            slot = asyncio.get_running_loop().time()
            applied[f"small-{number}"] = await apply(bench.admin, job(namespace, f"small-{number}"))
            await asyncio.sleep(max(0.0, slot + 0.5 - asyncio.get_running_loop().time()))
            floor[f"bare-{number}"] = time.monotonic()
            await _template(bench).create(_BARE_NAMESPACE, f"bare-{number}", 2)
            await asyncio.sleep(max(0.0, slot + 1.0 - asyncio.get_running_loop().time()))
        jobs = [bench.seen.jobs[namespace, name] for name in applied]
        await bench.seen.until(
            lambda: all(record.status.get("phase") == "Succeeded" for record in jobs), 60, "small jobs succeed"
        )
    await bare.stop()
    created = [_last_created(bench.seen.pods_of(namespace, name)) - at for name, at in applied.items()]
    lowest = [_last_created(bare.pods_of(_BARE_NAMESPACE, name)) - at for name, at in floor.items()]
    lags = [_status_lag(bench, namespace, name) for name in applied]
    bench.add(
        "2 workers: from apply to last pod, median", 1000 * median(created), 60, "ms", ceiling=1000 * median(lowest)
    )
    bench.add("2 workers: from apply to last pod, p99", 1000 * high(created), 250, "ms", ceiling=1000 * high(lowest))
    bench.add("2 workers: from pods running to status, median", median(lags), 0.4, "s", note=f"p99 {high(lags):.3f} s")
    await asyncio.sleep(3)  # until the audit log is written
    writes = bench.plane.writes()[before:]
    bench.add("2 workers: writes per lifecycle", len(writes) / len(applied), 12, "", note=_tally(writes, len(applied)))
    bench.add("2 workers: CPU per lifecycle", 1000 * meter.cpu / len(applied), 30, "ms", note="including idle CPU")
    await clear(bench.admin, bench.seen, namespace)
    await clear(bench.admin, bench.seen, _BARE_NAMESPACE)


async def wide(bench: Bench) -> None:
    """One job of a thousand workers, beside a thousand pods by a bare client."""
    namespace = "wide"
    await make_namespace(bench.admin, namespace)
    lowest, _ = await _bare_burst(bench, jobs=1, workers=WIDE)
    began = await apply(bench.admin, job(namespace, "wide", workers=WIDE))
    await bench.seen.until(lambda: len(bench.seen.pods_of(namespace)) >= WIDE, 120, "all pods of the wide job")
    created = _last_created(bench.seen.pods_of(namespace)) - began
    bench.add(f"one job of {WIDE} workers: all pods created", created, 6, "s", ceiling=lowest)
    await bench.seen.until(
        lambda: bench.seen.jobs[namespace, "wide"].status.get("workers", {}).get("ready") == WIDE, 180, "all run"
    )
    bench.add("… from pods running to status", _status_lag(bench, namespace, "wide", WIDE), 1, "s")
    await clear(bench.admin, bench.seen, namespace)


async def restart(bench: Bench) -> None:
    """A whole restart of 100 workers; single workers replaced."""
    namespace, workers = "restarts", 100
    await make_namespace(bench.admin, namespace)
    manifest = job(namespace, "wide", workers=workers, restart={"limit": 1000, "backoffSeconds": 0})
    await apply(bench.admin, manifest)
    record = await _running(bench, namespace, "wide", workers)
    whole = []
    for _ in range(3):
        began, before = time.monotonic(), {pod.uid for pod in bench.seen.pods_of(namespace)}
        await _fail(bench.admin, _worker(bench, namespace, "wide", 0))
        await bench.seen.until(lambda b=before: len(_fresh(bench, namespace, "wide", b)) >= workers, 60, "all replaced")
        whole.append(_last_created(_fresh(bench, namespace, "wide", before)) - began)
        await bench.seen.until(lambda: record.status.get("workers", {}).get("ready") == workers, 60, "all run again")
    lowest = await _bare_restart(bench, workers)
    bench.add("100 workers: restart of all workers, median of 3", median(whole), 1.5, "s", ceiling=lowest)
    await clear(bench.admin, bench.seen, namespace)
    failed = await _replacements(bench, namespace, "failing", _fail)
    bench.add("one failed pod replaced, median of 7", median(failed), 0.3, "s", note=f"slowest {max(failed):.3f} s")
    deleted = await _replacements(bench, namespace, "deleted", _delete)
    bench.add(
        "pod deleted to its replacement, median of 7", median(deleted), 1, "s", note=f"slowest {max(deleted):.3f} s"
    )
    await clear(bench.admin, bench.seen, namespace)


async def tenants(bench: Bench) -> None:
    """Small jobs of one namespace, first alone and then while another namespace submits a thousand jobs at once."""
    for namespace in ("quiet", "loud"):
        await make_namespace(bench.admin, namespace)
    await _one_by_one(bench, "quiet", "first")  # until everything is loaded
    alone = await _one_by_one(bench, "quiet", "alone")
    loud = asyncio.create_task(
        gather(lambda n=number: apply(bench.admin, job("loud", f"job-{n}")) for number in range(bench.many))
    )
    await bench.seen.until(lambda: len(bench.seen.pods_of("loud")) > 0, 60, "the first pods of the loud namespace")
    beside = await _one_by_one(bench, "quiet", "beside")
    left = 2 * bench.many - len(bench.seen.pods_of("loud"))
    await loud
    await bench.seen.until(lambda: len(bench.seen.pods_of("loud")) >= 2 * bench.many, 300, "all pods of the loud")
    what = f"2 workers, beside {bench.many} new jobs of another namespace: from apply to last pod"
    note = f"alone {1000 * median(alone):.0f} ms; {left} pods of the other namespace were still missing at the end"
    bench.add(f"{what}, median", median(beside), 2, "s", note=note)
    bench.add("… slowest", max(beside), 5, "s", note=f"alone {1000 * max(alone):.0f} ms")
    await clear(bench.admin, bench.seen, "quiet")
    await clear(bench.admin, bench.seen, "loud")


async def _one_by_one(bench: Bench, namespace: str, name: str) -> list[float]:
    """Submit ten jobs of two workers, one after the other, and return how long each waited for its pods."""
    waits = []
    for number in range(10):
        began = await apply(bench.admin, job(namespace, f"{name}-{number}"))
        await bench.seen.until(
            lambda n=number: len(bench.seen.pods_of(namespace, f"{name}-{n}")) >= 2,
            120,
            "both pods of a small job",
        )
        waits.append(_last_created(bench.seen.pods_of(namespace, f"{name}-{number}")) - began)
    return waits


async def burst(bench: Bench) -> None:
    """A thousand jobs at once, beside their objects by a bare client. The jobs stay for what follows."""
    lowest, soonest = await _bare_burst(bench, jobs=bench.many, workers=2)
    await make_namespace(bench.admin, "many")
    began = time.monotonic()
    with Meter(bench.operator.process) as meter:
        await gather(lambda n=number: apply(bench.admin, job("many", f"job-{n}")) for number in range(bench.many))
        accepted = time.monotonic() - began
        await bench.seen.until(lambda: len(bench.seen.pods_of("many")) >= 2 * bench.many, 180, "all pods of many jobs")
        created = _last_created(bench.seen.pods_of("many")) - began
        await bench.seen.until(lambda: all(pod.running for pod in bench.seen.pods_of("many")), 180, "all pods run")
        running = max(pod.running or 0.0 for pod in bench.seen.pods_of("many")) - began
        await bench.seen.until(
            lambda: all(_says(bench, f"job-{n}", 2) for n in range(bench.many)), 180, "all statuses say so"
        )
    lags = [_status_lag(bench, "many", f"job-{number}") for number in range(bench.many)]
    note = f"all jobs were accepted within {accepted:.1f} s"
    bench.add(f"{bench.many} jobs of 2 at once: all pods created", created, 22, "s", ceiling=lowest, note=note)
    bench.add(
        "… all running",
        running,
        45,
        "s",
        ceiling=soonest,
        note="the scheduler's default limits allow 50 pods per second",
    )
    bench.add("… from pods running to status, p99", high(lags), 1, "s", note=f"median {median(lags):.3f} s")
    bench.add("… operator CPU per job", 1000 * meter.cpu / bench.many, None, "ms")


async def steady(bench: Bench) -> None:
    """What a thousand running jobs cost, and ten thousand pods of others."""
    await asyncio.sleep(5)
    with Meter(bench.operator.process) as meter:
        await asyncio.sleep(IDLE_SECONDS)
    memory = bench.operator.process.memory()
    bench.add(f"{bench.many} jobs running, no reports: memory", memory, 120, "MiB")
    bench.add("… idle CPU", meter.percent, 2, "%")
    await make_namespace(bench.admin, "others")
    with Meter(bench.operator.process) as busy:
        await gather((lambda n=number: _stranger(bench.admin, n)) for number in range(UNRELATED))
    more = bench.operator.process.memory() - memory
    bench.add(f"{UNRELATED} unrelated pods created: CPU", busy.percent, 2, "%", note=f"{busy.seconds:.0f} s")
    bench.add("… additional memory", max(0.0, more), 2, "MiB")
    await delete_all(bench.admin, "/api/v1/namespaces/others/pods")


async def kill(bench: Bench) -> None:
    """SIGKILL with a thousand jobs running: the first thing that it does right afterwards, and nothing done twice."""
    pods = {pod.uid for pod in bench.seen.pods_of("many")}
    bench.operator.kill()
    await _fail(bench.admin, _worker(bench, "many", "job-7", 1))
    await apply(bench.admin, job("many", "newcomer"))
    bench.operator.start()
    began = time.monotonic()
    await bench.seen.until(lambda: bench.seen.pods_of("many", "newcomer"), 60, "the new job's pods")
    await bench.seen.until(lambda: len(bench.seen.pods_of("many", "job-7")) == 3, 60, "the failed pod's successor")
    fresh = [pod.created - began for pod in bench.seen.pods_of("many") if pod.uid not in pods]
    bench.add(
        "operator killed: from process start to first correct action",
        min(fresh),
        5,
        "s",
        note=f"second one after {sorted(fresh)[1]:.2f} s",
    )
    await bench.operator.leading()
    await asyncio.sleep(20)  # the resync that follows the first watches included
    extra = len(bench.seen.pods_of("many")) - len(pods) - 3
    bench.add("… surplus pods", len(bench.seen.duplicates) + abs(extra), 0, "")


async def reports(bench: Bench) -> None:
    """Reports of all jobs: how old the status is at most, and what that costs."""
    reporters = Reporters(bench.admin, bench.operator.reports_port)
    await reporters.enlist(bench.seen, "many")
    await reporters.start()
    try:
        await asyncio.sleep(REPORT_SECONDS / 2)  # until every job has said something
        writes, begun = bench.seen.status_writes, time.monotonic()
        sent = reporters.answers[204]
        with Meter(bench.operator.process) as meter:
            await asyncio.sleep(REPORT_SECONDS / 2)
        ended = time.monotonic()
        rate = (bench.seen.status_writes - writes) / (ended - begun)
        ages = [_oldest(bench, f"job-{number}", begun, ended) for number in range(bench.many)]
        bench.add(
            f"{bench.many} jobs reporting: oldest progress in any status",
            max(ages),
            60,
            "s",
            note=f"median {median(ages):.0f} s",
        )
        bench.add("… status writes", rate, 20.5, "/s")
        share = (reporters.answers[204] - sent) / (ended - begun)
        bench.add("… reports accepted", share, None, "/s", note=f"answers {dict(reporters.answers)}")
        bench.add("… CPU", meter.percent, None, "%")
        bench.add("… memory", bench.operator.process.memory(), 120, "MiB")
    finally:
        await reporters.stop()


def _template(bench: Bench) -> BareChildren:
    if bench.template is None:
        raise RuntimeError("there was no job to copy yet")
    return bench.template


async def prepare(bench: Bench) -> None:
    """Make a first job, whose children the bare client copies from then on."""
    await make_namespace(bench.admin, _BARE_NAMESPACE)
    await make_namespace(bench.admin, "first")
    await apply(bench.admin, job("first", "first"))
    await bench.seen.until(lambda: len(bench.seen.pods_of("first")) == 2, 60, "the first job's pods")
    bench.template = await BareChildren.copy(bench.bare, bench.admin, "first", "first")
    await clear(bench.admin, bench.seen, "first")


async def _warm_up(bench: Bench, namespace: str) -> None:
    for number in range(5):
        await apply(bench.admin, job(namespace, f"warm-{number}"))
        await _template(bench).create(_BARE_NAMESPACE, f"warm-{number}", 2)
    await bench.seen.until(
        lambda: all(bench.seen.jobs[namespace, f"warm-{n}"].status.get("phase") == "Succeeded" for n in range(5)),
        60,
        "the first jobs end",
    )


@contextlib.asynccontextmanager
async def _bare_recorder(bench: Bench) -> AsyncIterator[Recorder]:
    recorder = Recorder(bench.bare, LABEL_BARE, jobs=False)
    await recorder.start()
    try:
        yield recorder
    finally:
        await recorder.stop()
        await clear(bench.admin, bench.seen, _BARE_NAMESPACE)
        await asyncio.sleep(3)  # what watches the pods has to digest their end


async def _bare_burst(bench: Bench, jobs: int, workers: int) -> tuple[float, float]:
    """Return the seconds in which the bare client makes the children of so many jobs, and in which all of them run."""
    async with _bare_recorder(bench) as recorder:
        began = time.monotonic()
        at_once = 16 if jobs == 1 else 2
        await gather(
            (lambda n=number: _template(bench).create(_BARE_NAMESPACE, f"burst-{n}", workers, at_once))
            for number in range(jobs)
        )
        pods = recorder.pods
        # Also for the sake of what follows: the scheduler would go on with pods that are gone.
        await recorder.until(
            lambda: len(pods) >= jobs * workers and all(pod.running for pod in pods.values()), 180, "bare pods run"
        )
        return _last_created(list(pods.values())) - began, max(pod.running or 0.0 for pod in pods.values()) - began


async def _bare_restart(bench: Bench, workers: int) -> float:
    """Return the seconds in which the bare client deletes so many running pods and makes as many anew."""
    async with _bare_recorder(bench) as recorder:
        await _template(bench).create(_BARE_NAMESPACE, "old", workers)
        await recorder.until(
            lambda: sum(bool(pod.running) for pod in recorder.pods.values()) == workers, 60, "bare run"
        )
        began = time.monotonic()
        path = f"/api/v1/namespaces/{_BARE_NAMESPACE}/pods/old-{{}}"
        await gather(lambda i=index: bench.bare.request("DELETE", path.format(i)) for index in range(workers))
        await _template(bench).create(_BARE_NAMESPACE, "new", workers)
        await recorder.until(lambda: len(recorder.pods) == 2 * workers, 60, "bare pods replaced")
        return max(pod.created for pod in recorder.pods.values()) - began


async def _replacements(bench: Bench, namespace: str, name: str, disturb: Any) -> list[float]:
    """Return the seconds from each of some disturbances of single workers to their replacements."""
    await apply(bench.admin, job(namespace, name, workers=10, restart={"limit": 1000, "backoffSeconds": 0}))
    record = await _running(bench, namespace, name, 10)
    taken = []
    for index in range(1, 8):
        began, before = time.monotonic(), {pod.uid for pod in bench.seen.pods_of(namespace, name)}
        await disturb(bench.admin, _worker(bench, namespace, name, index))
        await bench.seen.until(lambda b=before: _fresh(bench, namespace, name, b), 60, "a replacement")
        taken.append(_last_created(_fresh(bench, namespace, name, before)) - began)
        await bench.seen.until(
            lambda b=before: (
                all(pod.running for pod in _fresh(bench, namespace, name, b))
                and record.status.get("workers", {}).get("ready") == 10
            ),
            60,
            "the replacement runs",
        )
    return taken


async def _running(bench: Bench, namespace: str, name: str, workers: int) -> Any:
    await bench.seen.until(lambda: (namespace, name) in bench.seen.jobs, 30, "the job is seen")
    record = bench.seen.jobs[namespace, name]
    await bench.seen.until(lambda: record.status.get("workers", {}).get("ready") == workers, 120, "all workers run")
    return record


async def _fail(client: Client, pod: PodRecord) -> None:
    """Have a pod fail as its kubelet would say it."""
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/status"
    current = await client.request("GET", path)
    (container,) = current["status"]["containerStatuses"]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ended = {"exitCode": _LOST, "reason": "Error", "startedAt": now, "finishedAt": now}
    container.update(ready=False, state={"terminated": ended})
    current["status"]["phase"] = "Failed"
    await client.request("PUT", path, current)


async def _delete(client: Client, pod: PodRecord) -> None:
    await client.request("DELETE", f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}")


async def _stranger(client: Client, number: int) -> None:
    """Create a pod that nobody looks after."""
    pod: Manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"other-{number}"}}
    pod["spec"] = {"schedulerName": "none", "containers": [{"name": "main", "image": "none"}]}
    await client.request("POST", "/api/v1/namespaces/others/pods", pod)


def _worker(bench: Bench, namespace: str, name: str, index: int) -> PodRecord:
    return next(pod for pod in bench.seen.pods_of(namespace, name) if pod.live and pod.index == str(index))


def _fresh(bench: Bench, namespace: str, name: str, before: set[str]) -> list[PodRecord]:
    return [pod for pod in bench.seen.pods_of(namespace, name) if pod.uid not in before]


def _last_created(pods: list[PodRecord]) -> float:
    return max(pod.created for pod in pods)


def _says(bench: Bench, name: str, workers: int) -> bool:
    return bool(bench.seen.jobs["many", name].status.get("workers", {}).get("ready") == workers)


def _status_lag(bench: Bench, namespace: str, name: str, workers: int = 2) -> float:
    """Return the seconds from the last worker's running to the status that counts them all."""
    running = max(pod.running or 0.0 for pod in bench.seen.pods_of(namespace, name))
    record = bench.seen.jobs[namespace, name]
    said = record.first(lambda status: status.get("workers", {}).get("ready") == workers)
    return 0.0 if said is None else max(0.0, said - running)


def _oldest(bench: Bench, name: str, begun: float, ended: float) -> float:
    """Return how old the job's progress in its status became at most between two moments, in seconds."""
    steps = [(at, status.get("progress", {}).get("step", 0)) for at, status in bench.seen.jobs["many", name].statuses]
    moments = [at for number, (at, step) in enumerate(steps) if number == 0 or step != steps[number - 1][1]]
    former = [at for at in moments if at <= begun]
    within = [at for at in moments if begun < at <= ended]
    points = [max(former) if former else begun, *within, ended]
    return max(later - earlier for earlier, later in itertools.pairwise(points))


def _tally(writes: list[dict[str, Any]], jobs: int) -> str:
    counts: dict[str, int] = {}
    for entry in writes:
        target = entry["objectRef"]
        name = f"{entry['verb']} {target['resource']}{'/' + target['subresource'] if 'subresource' in target else ''}"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count / jobs:.3g} {name}" for name, count in sorted(counts.items()))
