"""Uses kopf for watches, login and recovery from watch errors. It only forwards every event to the sink.

kopf offers much more (finalizers, diffs, progress annotations, retries, event posting); all of it is switched off, so
that an event costs little and nothing is ever written to an object on kopf's account.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import kopf

from trainwright.api.names import GROUP, LABEL_JOB, PLURAL, VERSION
from trainwright.cluster.port import Sink


class _NoDiffs(kopf.DiffBaseStorage):
    """A diff storage that stores nothing. By default kopf deep-copies each event to compute diffs, which we do not use."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return nothing to compare."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return nothing to compare with."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""


class _NoProgress(kopf.ProgressStorage):
    """A progress storage that stores nothing, because no handler has progress."""

    def fetch(self, **_: Any) -> None:
        """Return nothing."""

    def store(self, **_: Any) -> None:
        """Store nothing."""

    def purge(self, **_: Any) -> None:
        """Purge nothing."""

    def touch(self, **_: Any) -> None:
        """Touch nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return the essence as it is."""
        return essence


def registry(sink: Sink, relisted: Callable[[], None]) -> kopf.OperatorRegistry:
    """Return the handlers: one for jobs, one for worker pods, one to log in."""
    handlers = kopf.OperatorRegistry()

    def note_listing(event: kopf.RawEvent) -> None:
        if event["type"] is None:  # part of the listing with which a watch begins, also one that had expired
            relisted()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def job_event(event: kopf.RawEvent, **_: Any) -> None:
        note_listing(event)
        sink.job_changed(dict(event["object"]), deleted=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", registry=handlers)
    async def pod_event(event: kopf.RawEvent, **_: Any) -> None:
        note_listing(event)
        sink.pod_changed(dict(event["object"]), deleted=event["type"] == "DELETED")

    @kopf.on.login(registry=handlers)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # Called again whenever the API server answers 401, and then reads the token that was rotated meanwhile.
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    return handlers


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: lean, without any writes, and quick to notice a dead watch."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    # What to watch is known: no scanning for CRDs and namespaces, and so no permission needed to do so.
    chosen.scanning.disabled = True
    chosen.watching.label_selectors["", "v1", "pods"] = LABEL_JOB
    chosen.watching.server_timeout = 600
    chosen.watching.connect_timeout = 10
    chosen.watching.inactivity_timeout = 70
    # Tenants decide how large their pods are, up to a megabyte each: a page of the largest must fit into the memory.
    chosen.watching.chunk_size = 20
    chosen.networking.request_timeout = 60
    chosen.networking.connect_timeout = 10
    # Reconnect soon after the API server is back. By default kopf's backoff grows to minutes.
    chosen.networking.error_backoffs = (1.0,) * 60
    chosen.queueing.idle_timeout = 0.1
    chosen.queueing.exit_timeout = 0.5
    chosen.persistence.finalizer = f"{GROUP}/unused"
    chosen.persistence.diffbase_storage = _NoDiffs()
    chosen.persistence.progress_storage = _NoProgress()
    # Should kopf hang while it stops, the process is not held up by it for long.
    chosen.process.ultimate_exiting_timeout = 30
    return chosen


async def watch(sink: Sink, namespaces: Sequence[str], ready: asyncio.Event, relisted: Callable[[], None]) -> None:
    """Feed the sink with every change, until cancelled, and say `relisted` when changes may have been missed.

    Raises:
        Exception: A watch cannot go on; the process should end and start afresh.
    """
    await kopf.operator(
        registry=registry(sink, relisted),
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        ready_flag=ready,
    )
