"""The network interfaces that the collectives' environment variables name, checked before any process is forked.

Without the check, each process would fail while it joins the process group, and the job would restart in vain.
"""

import os
import socket
from typing import Final

from trainwright.api.spec import WorkersSpec
from trainwright_worker.errors import missing_interface

GLOO: Final = "GLOO_SOCKET_IFNAME"
NCCL: Final = "NCCL_SOCKET_IFNAME"


def check_interfaces(workers: WorkersSpec) -> None:
    """Check that the interfaces exist which gloo and, on GPUs, NCCL are told to use.

    Raises:
        UserError: One does not exist.
    """
    if workers.count * workers.processes_per_worker == 1:
        return  # No process talks to another.
    existing = [name for _, name in socket.if_nameindex()]
    for name in filter(None, os.environ.get(GLOO, "").split(",")):
        if name not in existing:
            raise missing_interface(GLOO, name)
    wanted = os.environ.get(NCCL, "")
    if workers.asks_for_gpus and wanted and not any(_is_wanted(name, wanted) for name in existing):
        raise missing_interface(NCCL, wanted)


def _is_wanted(name: str, wanted: str) -> bool:
    """Return whether NCCL uses this interface: it reads a list of prefixes, after `^` of others, after `=` of whole names."""
    names = [entry.partition(":")[0] for entry in wanted.lstrip("^=").split(",")]
    listed = name in names if wanted.lstrip("^").startswith("=") else any(map(name.startswith, filter(None, names)))
    return listed != wanted.startswith("^")
