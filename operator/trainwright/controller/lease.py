"""Leader election by a Lease: only one of several replicas is active. It is independent of jobs.

The official client's own election is not used: it has no release, no jitter, no bound on a renewal that hangs, and
compares nothing but local clocks against each other by luck. The rules here are client-go's:

- A candidate measures a foreign lease's age on its own monotonic clock, from when it saw the record change; the times
  inside the record are for people. Clock skew between nodes therefore does not matter.
- A holder that could not renew for two thirds of the duration stops before anyone else may start.
- Stopping on purpose empties the lease, so the next replica takes over at once.

A holder that was frozen and does not know yet that its lease is gone can still do no harm: statuses are written only at
the resource version that was read, names of children are deterministic, and deletions name a UID.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from trainwright.cluster.kubernetes import collection
from trainwright.cluster.port import AlreadyExistsError, ClusterError, ConflictError, Manifest, NotFoundError
from trainwright.cluster.rest import ApiServer
from trainwright.controller.pause import pause

log = structlog.get_logger(__name__)

_API = "coordination.k8s.io/v1"
_JITTER = 0.2


class LeaseLostError(Exception):
    """Another replica may be working by now; this process must end."""


@dataclass(frozen=True)
class _Seen:
    """A record of the lease and when, on our clock, it was first seen like this."""

    holder: str
    renewed: str
    duration: float
    at: float


class Lease:
    """One candidate for a Lease.

    Args:
        server: The API server.
        namespace: Namespace of the Lease.
        name: Name of the Lease.
        identity: What this candidate is called. It may outlive the process: a container that is started again in the
            same pod takes its own lease up at once.
        duration: Seconds without renewal after which others may take over.
        renew: Seconds between renewals, and between looks at a foreign lease.
        jitter: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        renew: float = 2.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._renew = renew
        self._deadline = duration * 2 / 3
        self._jitter = jitter
        self._seen: _Seen | None = None
        self._held: Manifest | None = None
        self._renewed_at = 0.0

    async def acquire(self, stop: asyncio.Event) -> bool:
        """Wait until this candidate holds the lease; return whether it does, or False once `stop` is set."""
        while not stop.is_set():
            if await self._try():
                log.info("lease acquired", lease=self._name, identity=self._identity)
                return True
            await pause(stop, self._pause())
        return False

    async def hold(self) -> None:
        """Renew the lease for as long as that succeeds.

        Raises:
            LeaseLostError: It could not be renewed in time, or somebody else has it.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(self._pause(), max(0.0, self._renewed_at + self._deadline - clock())))
            remaining = self._renewed_at + self._deadline - clock()
            if remaining <= 0:
                raise LeaseLostError(f"lease {self._name} could not be renewed for {self._deadline:.0f} s")
            try:
                async with asyncio.timeout(remaining):
                    await self._try()
            except TimeoutError:
                continue
            if self._seen is not None and self._seen.holder != self._identity:
                raise LeaseLostError(f"lease {self._name} is held by {self._seen.holder or 'no replica'}")

    async def release(self) -> None:
        """Release the lease so that the next candidate can take over at once. If that fails, the lease expires."""
        try:
            async with asyncio.timeout(self._renew):
                current = await self._server.request("GET", self._path, "leases")
                if current["spec"].get("holderIdentity") == self._identity:
                    await self._put(current, holder="")
                    log.info("lease released", lease=self._name)
        except (ClusterError, TimeoutError) as error:
            log.warning("lease not released; it will expire", error=str(error))

    @property
    def _path(self) -> str:
        return f"{collection(_API, 'leases', self._namespace)}/{self._name}"

    def _pause(self) -> float:
        return self._renew * (1 + _JITTER * self._jitter())

    async def _try(self) -> bool:
        """Take or renew the lease if that is allowed now, and return whether it is ours."""
        asked_at = asyncio.get_running_loop().time()
        # No other replica writes a held lease, so one request renews it. If one did, the API server reports a conflict.
        held, self._held = self._held, None
        try:
            current = held or await self._server.request("GET", self._path, "leases")
            if not self._may_take(current):
                return False
            stored = await self._put(current, holder=self._identity)
        except NotFoundError:
            return await self._create(asked_at)
        except ConflictError:
            # Another replica was faster. Read the lease to find the holder.
            return await self._try() if held else False
        except ClusterError as error:
            log.warning("lease cannot be reached", error=str(error))
            return False
        self._note(stored)
        self._held = stored
        self._renewed_at = asked_at
        return True

    async def _create(self, asked_at: float) -> bool:
        manifest: Manifest = {"apiVersion": _API, "kind": "Lease"}
        manifest["metadata"] = {"name": self._name, "namespace": self._namespace}
        manifest["spec"] = self._spec({}, self._identity)
        try:
            stored = await self._server.request("POST", collection(_API, "leases", self._namespace), "leases", manifest)
        except AlreadyExistsError:
            return False
        except ClusterError as error:
            log.warning("lease cannot be created", error=str(error))
            return False
        self._note(stored)
        self._held = stored
        self._renewed_at = asked_at
        return True

    async def _put(self, current: Manifest, holder: str) -> Manifest:
        """Write the lease unless it has changed since it was read."""
        spec = self._spec(current.get("spec") or {}, holder)
        return await self._server.request("PUT", self._path, "leases", {**current, "spec": spec})

    def _may_take(self, current: Manifest) -> bool:
        self._note(current)
        seen = self._seen
        if seen is None or seen.holder in ("", self._identity):
            return True
        return asyncio.get_running_loop().time() > seen.at + seen.duration

    def _note(self, lease: Manifest) -> None:
        spec = lease.get("spec") or {}
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        if self._seen is None or (self._seen.holder, self._seen.renewed) != (holder, renewed):
            duration = float(spec.get("leaseDurationSeconds") or self._duration)
            self._seen = _Seen(holder, renewed, duration, asyncio.get_running_loop().time())

    def _spec(self, before: Manifest, holder: str) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        changes = holder != before.get("holderIdentity")
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._duration)) if holder else 1,
            "acquireTime": now if changes else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (1 if changes and holder and before else 0),
        }
