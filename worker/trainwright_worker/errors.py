"""Exceptions with exit codes for the ways in which a rank can fail, and the classification of all other exceptions.

The exit code alone decides whether the job is restarted, so every error gets its class here. A message names the field of the
spec and the wrong value, since it becomes the post-mortem in the job's status.
"""

import errno
import re
import socket
from typing import ClassVar

from trainwright.api.exit_codes import ExitCode


class WorkerError(Exception):
    """A failure with a known cause.

    Attributes:
        exit_code: The exit code of the worker.
        message: What happened, in a sentence.
        hint: How to fix it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(WorkerError):
    """The spec asks for something that cannot work."""

    exit_code = ExitCode.USER_ERROR


class DataError(WorkerError):
    """The data are missing, damaged or do not match the spec."""

    exit_code = ExitCode.DATA


class NonFiniteError(WorkerError):
    """The loss or a weight is no longer a number."""

    exit_code = ExitCode.NON_FINITE


class OutOfMemoryError(WorkerError):
    """The device or the host has run out of memory."""

    exit_code = ExitCode.OUT_OF_MEMORY


class InfrastructureError(WorkerError):
    """The node, the network or the storage failed; the same job may succeed elsewhere or later."""

    exit_code = ExitCode.INFRASTRUCTURE


class UnreachableError(InfrastructureError):
    """An object store does not answer. Before the first step, its address is probably wrong."""


class PeersLostError(InfrastructureError):
    """Another process of the job has ended. This is a consequence of a failure, never its first cause."""


class PreemptedError(WorkerError):
    """The job was told to stop and has saved its state."""

    exit_code = ExitCode.PREEMPTED


NON_FINITE_HINT = (
    "lower spec.optimizer.learningRate, set spec.training.gradientClipping, or check the data for extreme values"
)
MEMORY_HINT = (
    "lower spec.training.globalBatchSize, use a smaller model, or raise the memory in spec.workers.resources.limits"
)
_NO_INTERFACE = re.compile(r"Unable to find (?:address|interface) for: (\S+)")
"""What gloo says of an interface without an address."""
_PEER_WORDS = ("gloo", "connection closed by peer", "connection reset by peer", "broken pipe")


def explain(error: BaseException) -> WorkerError:
    """Return `error` as a WorkerError, with the class that fits an exception of torch or the system.

    Args:
        error: Any exception that ended a rank.
    """
    if isinstance(error, WorkerError):
        return error
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return OutOfMemoryError(f"out of memory: {_first_line(text) or type(error).__name__}", MEMORY_HINT)
    interface = _NO_INTERFACE.search(text)
    if interface is not None:
        return missing_interface("GLOO_SOCKET_IFNAME", interface[1].strip("[]"))
    if _comes_from_a_peer(error, text):
        return PeersLostError(f"lost contact with another process of the job: {_without_location(text)}")
    if "does not have a deterministic implementation" in text:
        return UserError(f"spec.training.deterministic: true, but {_first_line(text)}", "set it to false")
    if "Expected more than 1 value per channel when training" in text:
        return UserError(
            "spec.training.globalBatchSize: batch normalization met a batch of one sample, which has no variance",
            "choose a batch and micro-batch of which the training split does not leave a single sample over",
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}:
        return InfrastructureError(f"storage failed: {error}", "check the volume that holds the checkpoints")
    return WorkerError(f"{type(error).__name__}: {_first_line(text)}")


def missing_interface(variable: str, name: str) -> UserError:
    """Return the error for an environment variable that names a network interface which does not exist or has no address."""
    existing = ", ".join(sorted(interface for _, interface in socket.if_nameindex()))
    return UserError(
        f"spec.workers.env: {variable} is {name}, but this worker has no such network interface with an address",
        f"name one that it has ({existing}), or remove {variable}, which may also come from the image, to have one chosen",
    )


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:400] if lines else ""


def _without_location(text: str) -> str:
    """Return the first sentence of a message of gloo, without the location in its source."""
    return re.sub(r"^\[[^]]*/[^]]*\]\s*", "", _first_line(text)).split(". ")[0]


def _comes_from_a_peer(error: BaseException, text: str) -> bool:
    # For gloo, torch raises a plain RuntimeError, otherwise its own types (DistBackendError, DistNetworkError, …). Comparing
    # names avoids importing torch here.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}:
        return True
    return type(error) is RuntimeError and any(word in text.lower() for word in _PEER_WORDS)
