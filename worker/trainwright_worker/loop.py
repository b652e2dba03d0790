"""The training loop."""

import time

import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from trainwright.api.spec.optimization import ScheduleName
from trainwright_worker.meeting import hold
from trainwright_worker.optim import learning_rate, set_learning_rate
from trainwright_worker.run import Run


def fit(run: Run) -> None:
    """Train until the last step.

    Nothing in here waits for the device or for other ranks, except the averaging of gradients: losses add up where they
    are and are read at the next meeting.

    Raises:
        PreemptedError: The ranks agreed to stop early; the state is saved.
        NonFiniteError: The loss or a weight is no longer a number.
    """
    progress, agenda, optimizer, spec = run.progress, run.agenda, run.optimizer, run.spec
    parameters = list(run.model.parameters())
    clip = spec.training.gradient_clipping
    varies = spec.schedule.name != ScheduleName.CONSTANT or spec.schedule.warmup_steps > 0
    norm: torch.Tensor | None = None
    run.model.train()
    agenda.plan_next(progress.step)
    if progress.step >= agenda.total_steps:
        return
    for batch in run.loader.batches(progress.step):
        if varies:
            rate = learning_rate(spec.optimizer.learning_rate, spec.schedule, progress.step, agenda.total_steps)
            set_learning_rate(optimizer, rate)
        loss = run.objective(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        pausing = progress.step + 1 == agenda.next
        if clip is not None:
            norm = clip_grad_norm_(parameters, clip)
        elif pausing:
            norm = get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        progress.loss_sum += loss.detach()
        progress.step += 1
        run.pulse.step = progress.step
        run.pulse.moves += 1
        if run.metrics is not None:
            run.step_ends.append(time.perf_counter())
        if pausing:
            hold(run, norm)
            if progress.step >= agenda.total_steps:
                break
