"""Reads the TrainingClasses of a cluster and the label by which a namespace names one. Decides nothing.

Only jobs that may start now need them, so they are read for passes over such jobs and kept for a few seconds. Nothing is
watched: the cluster need not have classes at all.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from trainwright.api.names import CLASS_LABEL
from trainwright.cluster.port import Cluster
from trainwright.plan.observe import read_class
from trainwright.plan.types import TrainingClass

INTERVAL: Final = 2.0
"""Seconds for which an answer is kept."""


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
    """Reads classes, at most once in a few seconds.

    Args:
        cluster: Whom to ask.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: tuple[TrainingClass, ...] = ()
        self._read_at: float | None = None
        self._labels: dict[str, tuple[float, str | None]] = {}
        self._lock = asyncio.Lock()

    async def read(self, namespace: str) -> Classes:
        """Return the classes, and the one that the namespace names.

        Raises:
            ClusterError: They cannot be read. A job must not start without its class.
        """
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._read_at is None or now >= self._read_at + INTERVAL:
                self._known = tuple(read_class(manifest) for manifest in await self._cluster.list_classes())
                self._read_at = now
            if not self._known:
                return NO_CLASSES
            read_at, named = self._labels.get(namespace, (None, None))
            if read_at is None or now >= read_at + INTERVAL:
                named = (await self._cluster.namespace_labels(namespace)).get(CLASS_LABEL)
                self._labels[namespace] = (now, named)
            return Classes(self._known, named)
