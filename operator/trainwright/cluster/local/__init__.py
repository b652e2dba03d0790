"""A cluster of one machine: objects in memory, pods as processes. It implements the Cluster port."""

from trainwright.cluster.local.cluster import LocalCluster
from trainwright.cluster.local.mounts import Folders

__all__ = ["Folders", "LocalCluster"]
