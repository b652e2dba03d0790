"""Pure constructors of Kubernetes objects as plain dicts. No I/O, no clock, no decisions."""

from trainwright.build.gang import Group, group_of, pod_group
from trainwright.build.manifest import Manifest
from trainwright.build.objects import config_map, network_policy, service
from trainwright.build.pod import WorkerSlot, with_additions, worker_pod
from trainwright.build.settings import Settings

__all__ = [
    "Group",
    "Manifest",
    "Settings",
    "WorkerSlot",
    "config_map",
    "group_of",
    "network_policy",
    "pod_group",
    "service",
    "with_additions",
    "worker_pod",
]
