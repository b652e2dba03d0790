"""When the process that holds the cluster is killed, nothing that it started lives on."""

import asyncio
import os
import signal
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys
from pathlib import Path
from trainwright.api.job import read_spec
from trainwright.build import WorkerSlot, Settings, config_map, worker_pod
from trainwright.cluster.local import Folders, LocalCluster

SPEC = {"model": {"name": "linear"}, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}
WORKER = "trap '' TERM; setsid sh -c 'echo child $$; sleep 60' & echo worker $$; wait; sleep 60"

async def main():
    cluster = LocalCluster(Folders(Path(sys.argv[1]), Path(), {}), ["sh", "-c", WORKER])
    settings = Settings(worker_image="worker")
    job = ("default", "digits", "some-uid", read_spec(SPEC), settings)
    config = await cluster.create(config_map(*job))
    await cluster.create(worker_pod(*job, config["metadata"]["name"], WorkerSlot(0, 1, 1)))
    await asyncio.sleep(60)

asyncio.run(main())
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def poll(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and processes of others set no event
            await asyncio.sleep(0.01)


async def test_sigkill_leaves_no_process(tmp_path):
    log = tmp_path / "logs" / "digits-0-1.log"
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, str(tmp_path))
    await poll(lambda: log.exists() and {"child", "worker"} <= set(log.read_text().split()))
    words = log.read_text().split()
    pids = [int(words[words.index(who) + 1]) for who in ("child", "worker")]
    assert all(alive(pid) for pid in pids)
    os.kill(holder.pid, signal.SIGKILL)
    await holder.wait()
    await poll(lambda: not any(alive(pid) for pid in pids))
