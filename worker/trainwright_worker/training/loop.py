"""The training loop."""

import time

from trainwright_worker.training.meeting import begin, meet
from trainwright_worker.training.run import Run


def fit(run: Run) -> None:
    """Train until the last step.

    Except for the averaging of gradients, the loop waits neither for the device nor for other ranks: losses are summed
    on the device and read at the next meeting.

    Raises:
        PreemptedError: The ranks agreed to stop early; the state is saved.
        NonFiniteError: The loss or a weight is no longer finite.
    """
    progress, agenda, pulse = run.progress, run.agenda, run.telemetry.pulse
    engine, update = run.learner.engine, run.learner.update
    guard, watch, share = update.guard, engine.watch, run.data.sampler.share
    begin(run)
    while progress.step < agenda.total_steps:
        update.mark_valid()
        for batch in watch.batches(run.data.loader.batches(progress.step), lambda: agenda.next - progress.step):
            loss = engine.accumulate(batch, share(progress.step))
            pausing = progress.step + 1 == agenda.next
            norm = update.take(progress.step, measured=pausing)
            watch.end()
            progress.loss_sum += loss if guard is None else guard.count(loss)
            progress.step += 1
            pulse.step = progress.step
            pulse.moves += 1
            if run.telemetry.metrics is not None:
                run.step_ends.append(time.perf_counter())
            # A meeting may change the position in the data or end the run.
            if pausing and (meet(run, norm) or progress.step >= agenda.total_steps):
                break
