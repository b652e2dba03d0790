"""Reads the TrainingClasses of a cluster and the label by which a namespace names one. Decides nothing.

Only jobs that may start now need them, so they are read by passes over such jobs, and passes that run at the same time share an
answer. Nothing is watched, because a watch may lag: a job that is created right after its class must not start without it.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from trainwright.api.names import CLASS_LABEL
from trainwright.cluster.port import Cluster
from trainwright.plan.observe import read_class
from trainwright.plan.types import TrainingClass


@dataclass(frozen=True)
class Classes:
    """The classes as a job of one namespace sees them.

    Attributes:
        known: All classes.
        of_namespace: The class that the namespace's label names, or None.
    """

    known: tuple[TrainingClass, ...] = ()
    of_namespace: str | None = None

    @property
    def limit_namespaces(self) -> bool:
        """Whether a class limits what the jobs of a namespace have together."""
        limits = (each.spec.limits.per_namespace for each in self.known if not isinstance(each.spec, str))
        return any(limit.to_wire() for limit in limits)


NO_CLASSES: Final = Classes()


class ClassReader:
    """Reads classes.

    Args:
        cluster: Whom to ask.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = asyncio.Lock()
        self._known: tuple[TrainingClass, ...] = ()
        self._calls = 0
        self._answered = 0

    async def read(self, namespace: str) -> Classes:
        """Return the classes, and the one that the namespace names, none of it older than this call.

        Raises:
            ClusterError: They cannot be read. A job must not start without its class.
        """
        known = await self._read()
        named = (await self._cluster.namespace_labels(namespace)).get(CLASS_LABEL) if known else None
        return Classes(known, named)

    async def _read(self) -> tuple[TrainingClass, ...]:
        self._calls += 1
        call = self._calls
        async with self._lock:
            # Calls that came while another one waited for its turn share that one's answer.
            if self._answered < call:
                asked_by = self._calls
                self._known = tuple(read_class(manifest) for manifest in await self._cluster.list_classes())
                self._answered = asked_by
            return self._known
