"""Runs a worker from its imports to its termination."""

import gc
import signal
import tempfile
from pathlib import Path

from trainwright.api.exit_codes import RETRYABLE, SIGNAL_BASE, ExitCode, classify
from trainwright.api.worker import Termination, WorkerConfig
from trainwright_worker.agent.agent import WorkerAgent
from trainwright_worker.agent.rendezvous import NotNeededError, RendezvousLostError, StoppedError
from trainwright_worker.agent.termination import describe, read_last_report
from trainwright_worker.agent.workload import Workload
from trainwright_worker.console import say
from trainwright_worker.distributed.interfaces import check_interfaces
from trainwright_worker.errors import InfrastructureError, WorkerError


def run_worker(config: WorkerConfig, index: int, attempt: int, host: str, workload: Workload) -> Termination:
    """Run the worker and return its termination.

    Args:
        config: The worker's config.
        index: Index of this worker.
        attempt: Attempt of the job that created this worker's pod.
        host: Host name of worker 0.
        workload: The program that its processes run.
    """
    with tempfile.TemporaryDirectory(prefix="trainwright-") as scratch:
        check_interfaces(config.spec.workers)
        workload.preload()
        gc.enable()  # The imports are done, see __main__.
        agent = WorkerAgent(config, index, attempt, host, Path(scratch), workload)
        signal.signal(signal.SIGTERM, agent.request_stop)
        signal.signal(signal.SIGINT, agent.request_stop)
        say(f"worker {index}", f"attempt {attempt}: joining {config.spec.workers.count} worker(s)")
        try:
            result = agent.run()
        except StoppedError:
            return _preempted("stopped while waiting for the other workers")
        except NotNeededError:
            return Termination(exit_code=ExitCode.SUCCESS, message="the job was done without this worker")
        except RendezvousLostError as error:
            found = agent.cause_after_loss()
            if agent.stopping:
                return _preempted("stopped")
            return describe(error) if found is None else found.termination
        except InfrastructureError as error:
            return describe(error)
        finally:
            agent.close()
        if not result.is_failed():
            return Termination(exit_code=ExitCode.SUCCESS, report=read_last_report(Path(scratch)))
        return _failed(agent)


def _failed(agent: WorkerAgent) -> Termination:
    """Return the termination of a worker whose processes failed for the last time."""
    if agent.failure is None:
        return describe(WorkerError("the processes failed without a trace"))
    ending = agent.failure.termination
    if agent.stopping and classify(ending.exit_code) in RETRYABLE:
        return _preempted(ending.message if ending.exit_code == ExitCode.PREEMPTED else "stopped")
    if ending.exit_code > SIGNAL_BASE:
        return ending.changed(exit_code=ExitCode.INFRASTRUCTURE)
    return ending


def _preempted(message: str) -> Termination:
    code = ExitCode.PREEMPTED
    return Termination(exit_code=code, category=classify(code), message=message)
