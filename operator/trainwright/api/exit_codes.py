"""Exit codes of a worker. The operator must be able to decide from the exit code alone whether to restart the worker."""

from enum import IntEnum, StrEnum
from typing import Final


class FailureClass(StrEnum):
    """The cause of a failure. It decides how the operator reacts."""

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
"""The exit code of a process that signal n ended is 128 + n."""

RETRYABLE: Final = frozenset(
    {FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTED, FailureClass.HANG, FailureClass.INTERNAL}
)
"""Classes after which a restart may succeed; failures of the other classes would repeat."""


def classify(exit_code: int) -> FailureClass:
    """Return the class of a non-zero exit code.

    A signal is attributed to the infrastructure unless better evidence exists (OOMKilled, a termination message). An
    unknown code is attributed to a defect in Trainwright or in the image.
    """
    if exit_code > SIGNAL_BASE:
        return FailureClass.INFRASTRUCTURE
    try:
        return _CLASS_OF_CODE[ExitCode(exit_code)]
    except (ValueError, KeyError):
        return FailureClass.INTERNAL
