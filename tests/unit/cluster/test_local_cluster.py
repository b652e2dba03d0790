"""A pod of the local cluster is a process group, and its status tells what becomes of it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from trainwright.api.job import read_spec
from trainwright.api.names import CONFIG_FILE, KIND, TOKEN_FILE, report_audience
from trainwright.api.worker import Termination
from trainwright.build import Settings, WorkerSlot, config_map, worker_pod
from trainwright.cluster.local import Folders, LocalCluster
from trainwright.cluster.port import ConflictError, JobKey, NotFoundError, RejectedError

KEY = JobKey("default", "digits")
SPEC = {
    "model": {"name": "linear"},
    "dataset": {"builtin": {"name": "digits"}},
    "training": {"epochs": 1},
    "workers": {"terminationGracePeriodSeconds": 20},
}
SETTINGS = Settings(worker_image="worker", reports_url="https://127.0.0.1:1", reports_ca="the CA")


class Recorder:
    """A sink that lets a test wait for what it is told."""

    def __init__(self):
        self.pods = {}
        self.phases = []
        self.changed = asyncio.Event()

    def job_changed(self, *_, **__):
        self.changed.set()

    def pod_changed(self, pod, *, deleted=False):
        self.pods[pod["metadata"]["name"]] = None if deleted else pod
        self.phases.append("Deleted" if deleted else pod["status"]["phase"])
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Bench:
    """A local cluster whose workers run a line of Python or shell instead of training."""

    def __init__(self, run, command):
        self.run = run
        self.cluster = LocalCluster(Folders(run=run, data=Path("/manifests"), volumes={}), command)
        self.told = Recorder()
        self.cluster.watch(self.told)
        self.job = self.cluster.submit({"kind": KIND, "metadata": {"name": "digits"}, "spec": SPEC})
        self.uid = self.job["metadata"]["uid"]

    async def start(self):
        """Create the job's ConfigMap and one worker pod; return the pod's name."""
        config = await self.cluster.create(config_map("default", "digits", self.uid, read_spec(SPEC), SETTINGS))
        pod = await self.cluster.create(self.worker(config["metadata"]["name"]))
        return pod["metadata"]["name"]

    def worker(self, config):
        return worker_pod("default", "digits", self.uid, read_spec(SPEC), SETTINGS, config, WorkerSlot(0, 1, 1))

    def pod(self, name="digits-0-1"):
        return self.told.pods[name]

    def phase(self, name="digits-0-1"):
        return self.pod(name)["status"]["phase"]

    def terminated(self):
        return self.pod()["status"]["containerStatuses"][0]["state"]["terminated"]

    async def ended(self):
        await self.told.until(lambda: self.phase() in ("Succeeded", "Failed"))
        return self.terminated()

    async def line(self, text):
        """Wait until the pod's log has a line."""
        log = self.run / "logs" / "digits-0-1.log"
        await poll(lambda: log.exists() and text in log.read_text())


@pytest.fixture
async def bench(tmp_path):
    benches = []

    def make(*command):
        benches.append(Bench(tmp_path, command))
        return benches[-1]

    yield make
    for each in benches:
        await each.cluster.close()


def alive(pid):
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


async def poll(condition):
    """Wait for something that nobody tells us of."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and processes of others set no event
            await asyncio.sleep(0.01)


async def gone(pid):
    await poll(lambda: not alive(pid))


async def test_a_pod_goes_from_pending_over_running_to_its_end(bench):
    b = bench("true")
    await b.start()
    assert (await b.ended())["exitCode"] == 0
    assert b.told.phases == ["Pending", "Running", "Succeeded"]
    assert b.terminated()["reason"] == "Completed"
    assert "nodeName" not in b.pod()["spec"], "the only machine is never one to avoid"


async def test_an_exit_code_and_the_last_words_reach_the_status(bench):
    b = bench("sh", "-c", 'echo \'{"exitCode": 65}\' > "$TRAINWRIGHT_TERMINATION_LOG"; exit 65')
    await b.start()
    assert await b.ended() | {"startedAt": "", "finishedAt": ""} == {
        "exitCode": 65,
        "reason": "Error",
        "message": '{"exitCode": 65}\n',
        "startedAt": "",
        "finishedAt": "",
    }


async def test_an_end_by_signal_is_128_and_the_signal(bench):
    b = bench("sh", "-c", "kill -9 $$")
    await b.start()
    ended = await b.ended()
    assert (ended["exitCode"], ended["signal"]) == (137, 9)


async def test_a_command_that_does_not_exist_fails_the_pod(bench):
    b = bench("/no/such/program")
    await b.start()
    assert (await b.ended())["exitCode"] == 126
    assert "cannot start /no/such/program" in (b.run / "logs" / "digits-0-1.log").read_text()


async def test_a_worker_whose_config_is_refused_says_why_and_is_not_tried_again(bench):
    b = bench("true")
    config = config_map("default", "digits", b.uid, read_spec(SPEC), SETTINGS)
    wire = json.loads(config["data"][CONFIG_FILE])
    wire["spec"]["dataset"] = {"csv": {"path": "a/../b.csv", "target": "price"}}
    await b.cluster.create({**config, "data": {**config["data"], CONFIG_FILE: json.dumps(wire)}})
    await b.cluster.create(b.worker(config["metadata"]["name"]))
    end = await b.ended()
    ending = Termination.model_validate_json(end["message"])
    assert (end["exitCode"], ending.category) == (64, "UserError")
    assert "cannot start the worker: spec.dataset.csv.path: must not contain .." in ending.message


async def test_deletion_lets_a_worker_finish_its_work(bench):
    b = bench("sh", "-c", "trap 'echo saved; exit 75' TERM; echo ready; while :; do sleep 0.01; done")
    await b.start()
    await b.line("ready")
    await b.cluster.delete_pod(KEY, "digits-0-1", b.pod()["metadata"]["uid"])
    assert b.pod()["metadata"]["deletionGracePeriodSeconds"] == 20
    await b.told.until(lambda: b.pod() is None)
    assert b.told.phases[-2:] == ["Failed", "Deleted"]
    assert "saved" in (b.run / "logs" / "digits-0-1.log").read_text()
    assert await b.cluster.list_pods(KEY) == []


async def test_a_worker_that_does_not_listen_is_killed_with_all_it_started(bench):
    # The grandchild has a session of its own, as the processes of torch's elastic agent have.
    b = bench("sh", "-c", "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo child $$; sleep 60' & sleep 60")
    await b.start()
    await b.line("child")
    child = int((b.run / "logs" / "digits-0-1.log").read_text().split()[1])
    await b.cluster.delete_pod(KEY, "digits-0-1", b.pod()["metadata"]["uid"], grace_seconds=0)
    await b.told.until(lambda: b.pod() is None)
    await gone(child)


async def test_the_death_of_a_worker_takes_its_processes_along(bench):
    b = bench("sh", "-c", "setsid sh -c 'echo child $$; sleep 60' & sleep 60")
    await b.start()
    await b.line("child")
    child = int((b.run / "logs" / "digits-0-1.log").read_text().split()[1])
    os.kill(int((b.run / "pods" / "digits-0-1" / "pid").read_text()), signal.SIGKILL)
    assert (await b.ended())["exitCode"] == 137
    await gone(child)


async def test_a_deletion_names_the_pod_it_means(bench):
    b = bench("true")
    await b.start()
    await b.ended()
    with pytest.raises(NotFoundError):
        await b.cluster.delete_pod(KEY, "digits-0-1", "another")
    await b.cluster.delete_pod(KEY, "digits-0-1", b.pod()["metadata"]["uid"])
    assert b.pod() is None
    with pytest.raises(NotFoundError):
        await b.cluster.delete_pod(KEY, "digits-0-1", "another")


async def test_children_go_with_their_job(bench):
    b = bench("sleep", "60")
    await b.start()
    await b.told.until(lambda: b.phase() == "Running")
    await b.cluster.delete_job(KEY, b.uid)
    await b.told.until(lambda: b.pod() is None)
    assert await b.cluster.list_jobs() == []


async def test_a_status_write_must_know_the_newest_version(bench):
    b = bench("true")
    written = await b.cluster.write_status(b.job, {"phase": "Running"})
    assert written["status"] == {"phase": "Running"}
    with pytest.raises(ConflictError):
        await b.cluster.write_status(b.job, {"phase": "Failed"})


async def test_a_pod_without_its_config_is_refused(bench):
    b = bench("true")
    with pytest.raises(RejectedError, match="does not exist yet"):
        await b.cluster.create(b.worker("no-such-config"))


async def test_a_token_is_good_for_its_own_pod_and_job_while_it_runs(bench):
    b = bench("sleep", "60")
    await b.start()
    await b.told.until(lambda: b.phase() == "Running")
    token_file = b.run / "pods" / "digits-0-1" / TOKEN_FILE
    token, audience = token_file.read_text(), report_audience("default", "digits", b.uid)
    assert token_file.stat().st_mode & 0o077 == 0
    assert (await b.cluster.review_token(token, audience)).name == "digits-0-1"
    assert await b.cluster.review_token(token, "another") is None
    assert await b.cluster.review_token("guess", audience) is None
    await b.cluster.delete_pod(KEY, "digits-0-1", b.pod()["metadata"]["uid"], grace_seconds=0)
    await b.told.until(lambda: b.pod() is None)
    assert await b.cluster.review_token(token, audience) is None


async def test_a_worker_reads_a_config_whose_paths_exist_here(bench):
    b = bench(sys.executable, "-c", "import os; print(open(os.environ['TRAINWRIGHT_CONFIG']).read())")
    await b.start()
    await b.ended()
    config = json.loads((b.run / "logs" / "digits-0-1.log").read_text())
    assert config["checkpointRoot"] == str(b.run)
    assert config["dataRoot"] == "/manifests"
    assert "metricsPort" not in config
    assert config["reports"]["caFile"] == str(b.run / "pods" / "digits-0-1" / "reports-ca.crt")
    assert (b.run / "pods" / "digits-0-1" / "reports-ca.crt").read_text() == "the CA"
    assert config["reports"]["tokenFile"] == str(b.run / "pods" / "digits-0-1" / TOKEN_FILE)


async def test_a_worker_sees_its_own_environment_and_little_of_ours(bench, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "1")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    b = bench(sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))")
    await b.start()
    await b.ended()
    environment = json.loads((b.run / "logs" / "digits-0-1.log").read_text())
    assert environment["TRAINWRIGHT_POD_NAME"] == "digits-0-1"
    assert environment["TRAINWRIGHT_WORKER_INDEX"] == "0"
    assert environment["TRAINWRIGHT_RENDEZVOUS_HOST"] == "127.0.0.1"
    assert environment["TRAINWRIGHT_SHARING_PROCESSES"] == "1"
    assert environment["HOME"] == "/home/ada"
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9000", "what botocore reads"
    assert environment["https_proxy"] == "http://proxy:3128"
    assert "SECRET_OF_THE_SHELL" not in environment


async def test_closing_leaves_no_process_behind(bench):
    b = bench("sh", "-c", "setsid sh -c 'echo child $$; sleep 60' & sleep 60")
    await b.start()
    await b.line("child")
    await b.cluster.close()
    child = int((b.run / "logs" / "digits-0-1.log").read_text().split()[1])
    assert not alive(child)


async def test_closing_ends_a_pod_that_is_just_being_started(bench):
    b = bench("sleep", "60")
    await b.start()
    async with asyncio.timeout(30):
        await b.cluster.close()
    assert b.terminated()["exitCode"] == 137
