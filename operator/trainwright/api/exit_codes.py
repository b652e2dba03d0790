"""How a worker ends. The exit code alone must let the operator decide whether trying again can help."""

from enum import IntEnum, StrEnum
from typing import Final


class FailureClass(StrEnum):
    """The cause of a failure, as far as it decides what to do about it."""

    USER_ERROR = "UserError"
    DATA = "Data"
    OUT_OF_MEMORY = "OutOfMemory"
    NON_FINITE = "NonFinite"
    INFRASTRUCTURE = "Infrastructure"
    PREEMPTED = "Preempted"
    HANG = "Hang"
    INTERNAL = "Internal"


class ExitCode(IntEnum):
    """Exit codes of a worker. The numbers follow BSD's sysexits where one fits."""

    SUCCESS = 0
    USER_ERROR = 64
    DATA = 65
    NON_FINITE = 66
    INFRASTRUCTURE = 69
    INTERNAL = 70
    OUT_OF_MEMORY = 71
    HANG = 72
    PREEMPTED = 75


_CLASS_OF_CODE: Final = {
    ExitCode.USER_ERROR: FailureClass.USER_ERROR,
    ExitCode.DATA: FailureClass.DATA,
    ExitCode.NON_FINITE: FailureClass.NON_FINITE,
    ExitCode.INFRASTRUCTURE: FailureClass.INFRASTRUCTURE,
    ExitCode.INTERNAL: FailureClass.INTERNAL,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.HANG: FailureClass.HANG,
    ExitCode.PREEMPTED: FailureClass.PREEMPTED,
}

SIGNAL_BASE: Final = 128
"""A process ended by signal n is said to exit with 128 + n."""

RETRYABLE: Final = frozenset(
    {FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTED, FailureClass.HANG, FailureClass.INTERNAL}
)
"""Classes for which the same job may succeed when tried again; the others would fail the same way."""


def classify(exit_code: int) -> FailureClass:
    """Return the class of a non-zero exit code.

    An end by signal is the node's or the scheduler's doing until a better witness (OOMKilled, a termination message)
    says otherwise; an unknown code is a defect of ours or of the image.
    """
    if exit_code > SIGNAL_BASE:
        return FailureClass.INFRASTRUCTURE
    try:
        return _CLASS_OF_CODE[ExitCode(exit_code)]
    except (ValueError, KeyError):
        return FailureClass.INTERNAL
