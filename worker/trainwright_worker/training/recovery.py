"""What follows numbers that are not finite: the end, or another try without the data that led there."""

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
    """Go back to the newest checkpoint in the middle of training; all ranks must call this.

    Raises:
        InfrastructureError: None can be read.
    """
    run.checkpoints.writer.wait()
    run.group.barrier()
    found, _ = find_newest(run.checkpoints.folder, run.group)
    if found is None:
        raise InfrastructureError("no checkpoint to go back to can be read", "check the volume in spec.checkpoint")
    extras = restore(run.checkpoints.folder, found, run.learner.model, run.learner.optimizer, run.progress, run.group)
    run.learner.update.restore(extras)


def is_sound(run: Run, norm: Tensor | None) -> bool:
    """Whether this rank's losses, and the newest gradient, are numbers.

    A gradient that is none spoils the weights, unless a guard has kept it from them.
    """
    spoilt = norm is not None and run.learner.update.guard is None and not math.isfinite(norm)
    return math.isfinite(run.progress.loss_sum) and not spoilt


def roll_back(run: Run) -> None:
    """Go back to the newest checkpoint, and remember to pass over the data since the ranks last met.

    Raises:
        NonFiniteError: The spec does not ask for it, or it has not helped.
    """
    step, sound, holes = run.progress.step, run.clock.met_step, list(run.progress.omissions.holes)
    if run.spec.health.non_finite != NonFinitePolicy.ROLLBACK:
        raise NonFiniteError(f"the loss is not finite at step {step}", NON_FINITE_HINT)
    if len(holes) >= MOST_ROLLBACKS:
        raise NonFiniteError(f"the loss is not finite at step {step}, after {len(holes)} rollbacks", NON_FINITE_HINT)
    reload(run)
    run.agenda.holes = run.progress.omissions.holes = [*holes, (sound, step)]
    run.clock.meet(run.progress.step)
    recall_losses(run)
    run.telemetry.warn(
        f"the loss was not finite at step {step}: back to step {run.progress.step}, passing over the data of steps "
        f"{sound + 1} to {step}"
    )


def recall_losses(run: Run) -> None:
    """Have the next loss that is told be of the steps from here on, not of the whole epoch. All ranks must call this."""
    taken = run.progress.step % run.agenda.steps_per_epoch
    [total] = run.group.sum([float(run.progress.loss_sum)])
    run.clock.expect_losses(total / run.group.size, max(0, taken - run.progress.omissions.in_epoch))


def pass_over(run: Run) -> bool:
    """Move the position past the bad data that begins here, if any does; return whether it did."""
    step = run.progress.step
    end = max((end for begin, end in run.agenda.holes if begin == step), default=step)
    run.progress.step = run.telemetry.pulse.step = end
    run.progress.omissions.passed += end - step
    return end > step


def count_skipped(run: Run) -> None:
    """Read how many steps the guard has left out, and tell.

    Raises:
        NonFiniteError: There were too many in a row.
    """
    if run.learner.update.guard is None:
        return
    total, most = run.learner.update.guard.read()
    if most >= MOST_IN_A_ROW:
        raise NonFiniteError(
            f"the gradient was not finite in {most} steps in a row, up to step {run.progress.step}", NON_FINITE_HINT
        )
    if total > run.progress.omissions.skipped and run.spec.health.non_finite == NonFinitePolicy.SKIP:
        run.telemetry.warn(f"{total} step(s) left out because the gradient was not finite", topic="skipped")
    run.progress.omissions.skipped = total
