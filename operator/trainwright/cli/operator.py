"""`trainwright operator`: runs the operator. All settings come from environment variables called TRAINWRIGHT_*."""

import asyncio
import contextlib
import ctypes
import gc
import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainwright.controller.settings import OperatorSettings

_M_MMAP_THRESHOLD = -3
_LARGE = 128 * 1024


def run_operator() -> None:
    """Run the operator until it is told to stop; exits with 2 on wrong settings and with 1 on any other failure.

    Settings come from environment variables, for example TRAINWRIGHT_NAMESPACES=team-a,team-b.
    """
    # The first process of a container ignores signals that it has no handler for, and imports take seconds. SystemExit
    # would be lost where the signal meets a callback of the import system; nothing has begun that must be cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # One that came while the operator before this one gave way has waited, see below.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _leave_out_what_is_never_used()
    # Imported here: the other commands need neither kopf nor the Kubernetes client, and should start quickly.
    import structlog  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    from trainwright.cluster.port import ClusterError  # noqa: PLC0415
    from trainwright.controller.lease import LeaseLostError  # noqa: PLC0415
    from trainwright.controller.logs import configure_logging  # noqa: PLC0415
    from trainwright.controller.process import Operator  # noqa: PLC0415

    settings = _read_settings()
    configure_logging(settings.log_level, settings.log_format)

    _calm_garbage_collector()
    _give_back_memory()

    async def main() -> None:
        operator = Operator(settings)
        try:
            await operator.run()
        except LeaseLostError:
            # The loop's signal handler ends with it. A SIGTERM from now on is kept for the restarted operator.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            if not operator.told_to_stop:
                raise

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except LeaseLostError as error:
        # Usually the API server was unavailable. If the container exited, its kubelet would restart it with a growing
        # backoff. Executing the program again in the same process restarts it at once, with fresh state.
        structlog.get_logger(__name__).warning("operator restarts", error=str(error))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - what runs already
    except ClusterError as error:
        # The message is sufficient; a traceback would not help.
        structlog.get_logger(__name__).critical("operator failed", error=str(error))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last place to log why the process ends
        structlog.get_logger(__name__).critical("operator failed", error=str(error), exc_info=error)
        sys.exit(1)


def _read_settings() -> "OperatorSettings":
    """Return the settings; exits with 2 if they are wrong."""
    from pydantic import ValidationError  # noqa: PLC0415

    from trainwright.controller.settings import OperatorSettings  # noqa: PLC0415

    try:
        return OperatorSettings()
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            field = "_".join(str(part) for part in detail["loc"]).upper()
            sys.stderr.write(f"TRAINWRIGHT_{field}: {detail['msg']}\n")
        sys.exit(2)


def _leave_out_what_is_never_used() -> None:
    """Prevent libraries from importing optional packages. This saves a sixth of the operator's memory.

    structlog draws tracebacks with rich if there is one; the operator logs lines of JSON. kopf knows the objects of the
    synchronous Kubernetes client where that is installed, and the package `kubernetes` imports that client and all it needs
    beside the asynchronous one; no object of it is ever seen here.
    """
    missing: dict[str, None] = dict.fromkeys(("rich", "kubernetes.client"))
    sys.modules.update(missing)  # type: ignore[arg-type]  # None makes an import fail as if the module did not exist
    kubernetes = importlib.util.find_spec("kubernetes")
    if kubernetes is not None:
        # Known, so that its parts can be imported, but not run.
        sys.modules["kubernetes"] = importlib.util.module_from_spec(kubernetes)


def _calm_garbage_collector() -> None:
    # Imported modules live as long as the process, so the collector need not scan them again.
    gc.collect()
    gc.freeze()
    # Reference counting frees most objects of a burst of passes. With the default thresholds, the collector would take
    # a tenth of the CPU time.
    gc.set_threshold(5000, 20, 50)


def _give_back_memory() -> None:
    """Return free memory to the system: that left over from imports now, and large buffers as soon as they are freed.

    glibc would keep both. A TLS connection alone has a buffer of 256 KiB, and bursts open many.
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries do not have these calls
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.malloc_trim(0)
