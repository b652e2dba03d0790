"""Pure constructors of Kubernetes objects as plain dicts. No I/O, no clock, no decisions."""

from trainwright.build.objects import config_map, network_policy, service
from trainwright.build.pod import Seat, worker_pod
from trainwright.build.settings import Settings

__all__ = ["Seat", "Settings", "config_map", "network_policy", "service", "worker_pod"]
