# ruff: noqa: T201 - a bench prints its table
"""How fast the operator is and what it costs, on a real API server, etcd, scheduler and controller manager.

KWOK simulates 200 nodes: pods are scheduled, run and end, but no containers run in them, so the bench sends the reports
of rank 0 to the operator's real endpoint. All programs run as plain processes of one machine and stop when the bench
ends. A bare client that creates the same objects within the same minute shows how much of a figure is due to the API
server.

    python tests/bench/control_plane.py [--only NAME ...] [--markdown docs/benchmarks-control-plane.md]
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "control"))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import measures
import uvloop
from children import make_namespace
from client import ApiError, Client, Manifest, Recorder, gather
from definitions import JOBS, contradiction, definitions
from measures import Bench
from operating import NAMESPACE, Operator
from plane import Plane, control_plane
from table import markdown, text

MEASURES = {
    measure.__name__: measure
    for measure in (
        measures.idle,
        measures.small,
        measures.wide,
        measures.restart,
        measures.tenants,
        measures.burst,
        measures.steady,
        measures.kill,
        measures.reports,
    )
}
NEEDS_MANY = {"steady", "kill", "reports"}
NODES = 200
_INVALID = 422


async def main(plane: Plane, names: list[str], many: int) -> Bench:
    """Take the measures in order on a fresh control plane, with so many jobs at once, and return what was seen."""
    admin, bare = (Client(plane.url, plane.token(user)) for user in ("admin", "bare"))
    operator = Operator(plane)
    bench = Bench(plane, operator, admin, bare, Recorder(admin), many)
    try:
        await _install(admin)
        await bench.seen.start()
        operator.start()
        await operator.leading()
        if "idle" in names:
            print("idle", flush=True)
            await measures.idle(bench)
        await measures.prepare(bench)
        for name in names:
            if name == "idle":
                continue
            begun = time.monotonic()
            print(name, flush=True)
            await MEASURES[name](bench)
            print(f"  ({time.monotonic() - begun:.0f} s)", flush=True)
    finally:
        operator.stop()
        await bench.seen.stop()
        await admin.close()
        await bare.close()
    return bench


async def _install(admin: Client) -> None:
    """Install the CRD, rights for the operator and the bare client, and the nodes."""
    for path, manifest in definitions():
        await admin.request("POST", path, manifest)
    await make_namespace(admin, NAMESPACE)
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE} for name in ("operator", "bare")]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bench"},
        "subjects": subjects,
        "roleRef": role,
    }
    await admin.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    await gather((lambda n=number: admin.request("POST", "/api/v1/nodes", _node(n))) for number in range(NODES))
    async with asyncio.timeout(120):
        while not await _settled(admin):  # noqa: ASYNC110 - the server is another process
            await asyncio.sleep(0.5)


async def _settled(admin: Client) -> bool:
    """Return whether the definitions are in force, so that a job that breaks a rule is refused, and the nodes ready."""
    try:
        await admin.request("POST", f"{JOBS.format(namespace=NAMESPACE)}?dryRun=All", contradiction())
    except ApiError as error:
        in_force = error.status == _INVALID
    else:
        in_force = False
    nodes = (await admin.request("GET", "/api/v1/nodes"))["items"]
    ready = sum(_is_ready(node) for node in nodes)
    return in_force and ready == NODES


def _is_ready(node: Manifest) -> bool:
    conditions = node["status"].get("conditions", ())
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not node["spec"].get("taints")


def _node(number: int) -> Manifest:
    room = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": {"kubernetes.io/hostname": f"node-{number}"}},
        "status": {"allocatable": room, "capacity": room},
    }


def _report(bench: Bench) -> str:
    lines = (__doc__ or "").strip().splitlines()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    about = " ".join(lines[2 : lines.index("", 2)])
    return (
        f"# Benchmarks of the control plane\n\n{lines[0]}\n\n{about}\n\n"
        f"Written by `tests/bench/control_plane.py --markdown` on a machine with {os.cpu_count()} cores, which all these\n"
        f"processes share; load averages at the end: {load}. Bold figures miss their goal.\n\n{markdown(bench.rows)}"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Measures the control plane.")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="this measure alone; may be repeated")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs at once; the limits shown are those for 1000")
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    parser.add_argument("--keep", type=Path, help="folder for data and logs; a temporary one that is deleted if absent")
    return parser.parse_args(arguments)


def chosen(only: list[str] | None) -> list[str]:
    """Return the measures to take: what was asked for and what that builds on."""
    wanted = set(only or MEASURES)
    if wanted & NEEDS_MANY:
        wanted.add("burst")
    return [name for name in MEASURES if name in wanted]


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with control_plane(folder) as plane, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            bench = runner.run(main(plane, chosen(options.only), options.jobs))
    print(text(bench.rows))
    if options.markdown:
        options.markdown.write_text(_report(bench), encoding="utf-8")
