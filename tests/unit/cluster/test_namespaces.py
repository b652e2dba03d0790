"""Some namespaces and not others: one that cannot be listed is no reason to know nothing of the rest."""

import asyncio
import contextlib

import pytest
import virtual_time
from manifests import job, pod

from trainwright.api.names import KIND
from trainwright.build import Settings
from trainwright.cluster.kubernetes import KubernetesCluster
from trainwright.cluster.port import ClusterError, RejectedError
from trainwright.cluster.rest import translate
from trainwright.controller import process
from trainwright.controller.controller import Controller
from trainwright.controller.settings import OperatorSettings


class Server:
    """Has a job with a pod in every namespace, and answers for some of them with an error."""

    def __init__(self, **errors):
        self.errors = errors

    async def request(self, verb, path, resource, **_):
        assert verb == "GET"
        namespace = path.split("/namespaces/")[1].split("/")[0] if "/namespaces/" in path else None
        if namespace in self.errors:
            raise translate(self.errors[namespace], "Forbidden", f"cannot list {resource} in {namespace}")
        made = {"trainingjobs": job, "pods": pod}.get(resource)
        items = [] if made is None else [made(namespace or "a") | {"status": {}}]
        for item in items:
            item["metadata"] |= {"uid": f"{resource} {namespace}", "resourceVersion": "3"}
            item["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z"
            if resource == "pods":
                item["metadata"]["ownerReferences"] = [{"kind": KIND, "uid": "of another job", "controller": True}]
        return {"items": items, "metadata": {"resourceVersion": "5"}}


def found(listing):
    return {item["metadata"]["namespace"] for item in listing}


@pytest.mark.parametrize("code", [403, 404])
async def test_a_namespace_that_cannot_be_listed_is_left_out(code):
    cluster = KubernetesCluster(Server(b=code), ("a", "b", "c"))
    for listing in (await cluster.list_jobs(), await cluster.list_pods()):
        assert found(listing) == {"a", "c"}
        assert listing.version == 5
        assert "cannot list" in listing.left_out["b"]


@pytest.mark.parametrize(
    ("server", "namespaces", "error"),
    [
        (Server(b=500), ("a", "b"), ClusterError),
        (Server(a=403, b=403), ("a", "b"), RejectedError),
        (Server(a=403), ("a",), RejectedError),
    ],
    ids=["no answer", "none at all", "the only one"],
)
async def test_what_proves_nothing_of_the_others_fails(server, namespaces, error):
    with pytest.raises(error):
        await KubernetesCluster(server, namespaces).list_pods()


def test_the_others_are_looked_after_and_nothing_in_it_is_taken_for_gone():
    async def main():
        server = Server(b=403)
        controller = Controller(KubernetesCluster(server, ("a", "b")), Settings(worker_image="worker"))
        gauges = controller.metrics.text
        assert b"trainwright_synced 0.0" in gauges()
        stop = asyncio.Event()
        task = asyncio.create_task(controller.run(stop))
        await asyncio.wait_for(controller.synced.wait(), 5)
        assert b"trainwright_synced 1.0" in gauges()
        assert b"trainwright_namespaces_left_out 1.0" in gauges()
        assert {key.namespace for key in controller.store.job_keys()} == {"a"}
        stop.set()
        await task
        controller.reach_changed.clear()
        del server.errors["b"]
        await controller.resync()
        assert controller.reach_changed.is_set()
        assert {key.namespace for key in controller.store.job_keys()} == {"a", "b"}
        server.errors["b"] = 403
        await controller.resync()
        assert {key.namespace for key in controller.store.job_keys()} == {"a", "b"}
        assert all(controller.store.width(key) for key in controller.store.job_keys())

    virtual_time.run(main())


def test_only_what_can_be_listed_is_watched_and_anew_when_that_changes(monkeypatch):
    watched = []

    async def watch(_sink, namespaces, _ready, _relisted):
        watched.append(list(namespaces))
        await asyncio.Event().wait()

    monkeypatch.setattr(process.handlers, "watch", watch)

    async def main():
        server = Server(b=403)
        operator = process.Operator(OperatorSettings(namespaces=("a", "b")))
        controller = Controller(KubernetesCluster(server, ("a", "b")), Settings(worker_image="worker"))
        task = asyncio.create_task(operator._watch(controller))
        await controller.resync()
        controller.synced.set()
        await asyncio.sleep(1)
        await controller.resync()
        await asyncio.sleep(1)
        assert watched == [["a"]]
        del server.errors["b"]
        await controller.resync()
        await asyncio.sleep(1)
        assert watched == [["a"], ["a", "b"]]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    virtual_time.run(main())
