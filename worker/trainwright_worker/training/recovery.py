"""Reacts to losses and gradients that are not finite: fails, or rolls back and skips the data that caused them."""

import math
from typing import Final

from torch import Tensor

from trainwright.api.spec.health import NonFinitePolicy
from trainwright_worker.checkpoint.resume import find_newest, restore
from trainwright_worker.errors import NON_FINITE_HINT, InfrastructureError, NonFiniteError
from trainwright_worker.training.guard import MOST_IN_A_ROW
from trainwright_worker.training.run import Run

MOST_ROLLBACKS: Final = 3


def reload(run: Run) -> None:
    """Restore the newest checkpoint during training. All ranks must call this.

    Raises:
        InfrastructureError: No checkpoint can be read.
    """
    run.checkpoints.writer.wait()
    run.group.barrier()
    found, _ = find_newest(run.checkpoints.folder, run.group)
    if found is None:
        raise InfrastructureError("no checkpoint for a rollback can be read", "check the storage in spec.checkpoint")
    extras = restore(run.checkpoints.folder, found, run.learner.model, run.learner.optimizer, run.progress, run.group)
    run.learner.update.restore(extras)


def is_sound(run: Run, norm: Tensor | None) -> bool:
    """Whether this rank's losses and latest gradient are finite.

    A gradient that is not finite corrupts the weights, unless a guard has skipped its step.
    """
    corrupted = norm is not None and run.learner.update.guard is None and not math.isfinite(norm)
    return math.isfinite(run.progress.loss_sum) and not corrupted


def roll_back(run: Run) -> None:
    """Go back to the newest checkpoint, and mark the data since the last meeting as bad, so that it is skipped.

    Raises:
        NonFiniteError: The spec does not enable rollbacks, or too many have not helped.
    """
    step, sound, holes = run.progress.step, run.clock.met_step, list(run.progress.omissions.holes)
    if run.spec.health.non_finite != NonFinitePolicy.ROLLBACK:
        raise NonFiniteError(f"the loss is not finite at step {step}", NON_FINITE_HINT)
    if len(holes) >= MOST_ROLLBACKS:
        raise NonFiniteError(f"the loss is not finite at step {step}, after {len(holes)} rollbacks", NON_FINITE_HINT)
    reload(run)
    run.agenda.holes = run.progress.omissions.holes = [*holes, (sound, step)]
    run.clock.meet(run.progress.step)
    restart_loss_window(run)
    run.telemetry.warn(
        f"the loss was not finite at step {step}: back to step {run.progress.step}, skipping the data of steps "
        f"{sound + 1} to {step}"
    )


def restart_loss_window(run: Run) -> None:
    """Start a new window of losses at this step, so that the next reported loss is not that of the whole epoch.

    All ranks must call this.
    """
    taken = run.progress.step % run.agenda.steps_per_epoch
    [total] = run.group.sum([float(run.progress.loss_sum)])
    run.clock.expect_losses(total / run.group.size, max(0, taken - run.progress.omissions.in_epoch))


def skip_past_bad_data(run: Run) -> bool:
    """Move the position past bad data that starts at this step; return whether there was any."""
    step = run.progress.step
    end = max((end for begin, end in run.agenda.holes if begin == step), default=step)
    run.progress.step = run.telemetry.pulse.step = end
    run.progress.omissions.passed += end - step
    return end > step


def count_skipped(run: Run) -> None:
    """Read the number of steps that the guard has skipped, and report it.

    Raises:
        NonFiniteError: Too many consecutive steps were skipped.
    """
    if run.learner.update.guard is None:
        return
    total, most = run.learner.update.guard.read()
    if most >= MOST_IN_A_ROW:
        raise NonFiniteError(
            f"the gradient was not finite in {most} steps in a row, up to step {run.progress.step}", NON_FINITE_HINT
        )
    if total > run.progress.omissions.skipped and run.spec.health.non_finite == NonFinitePolicy.SKIP:
        run.telemetry.warn(f"{total} step(s) skipped because the gradient was not finite", topic="skipped")
    run.progress.omissions.skipped = total
