"""The meeting of the ranks when training pauses: they agree on what to do, and then do it together.

A single all-reduce of a few numbers decides everything: whether any rank was told to stop, whether a checkpoint is due
by rank 0's clock, whether every loss is finite, the mean loss, and when to meet again. The following order (close the
epoch, evaluate, save, stop) is fixed, so that a checkpoint contains everything that belongs to its step.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from trainwright.api.figures import Evaluation
from trainwright.api.spec.health import NonFinitePolicy
from trainwright.api.worker import WorkerPhase
from trainwright_worker.checkpoint.staging import State
from trainwright_worker.checkpoint.state import gather_state, pack_rank
from trainwright_worker.distributed.parallel import share_buffers
from trainwright_worker.errors import PreemptedError
from trainwright_worker.reporting.activity import Activity
from trainwright_worker.reporting.figures import Figures
from trainwright_worker.training.evaluate import measure_split
from trainwright_worker.training.patience import is_better, should_stop_early
from trainwright_worker.training.recovery import (
    count_skipped,
    is_sound,
    restart_loss_window,
    roll_back,
    skip_past_bad_data,
)
from trainwright_worker.training.run import Run

LOG_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Agreement:
    """The result of a meeting, the same on all ranks.

    Attributes:
        stop: Whether to save and stop.
        save: Whether a checkpoint is due by the clock.
        interval: Steps until the next meeting.
        loss_sum: Mean over ranks of the sums of losses since the start of the epoch.
        sound: Whether the losses and gradients of all ranks are finite.
    """

    stop: bool
    save: bool
    interval: int
    loss_sum: float
    sound: bool


def begin(run: Run) -> None:
    """Prepare for the first step of this launch."""
    run.learner.model.train()
    if run.saved_step < 0 and run.spec.health.non_finite == NonFinitePolicy.ROLLBACK:
        _save(run)  # A rollback needs a checkpoint.
    restart_loss_window(run)
    _skip_bad_data(run)
    run.agenda.plan_next(run.progress.step)


def meet(run: Run, norm: Tensor | None) -> bool:
    """Meet the other ranks after a step, and carry out what is due.

    Args:
        run: This rank.
        norm: L2 norm of the step's gradient.

    Returns:
        Whether the position in the data has changed: back to a checkpoint, or past bad data.

    Raises:
        PreemptedError: The ranks agreed to stop; the state is saved.
        NonFiniteError: The loss of a rank is not finite, and rollbacks are disabled or did not help.
    """
    agreement = _agree(run, norm)
    run.telemetry.tolerance.note(run.clock.step_seconds(run.progress.step))
    run.telemetry.pulse.pause()  # An evaluation, a checkpoint or a rollback may take long, so pause the hang detection.
    moved = _follow(run, agreement, norm)
    if moved:
        run.telemetry.tolerance.restart()
    if run.progress.step < run.agenda.total_steps:
        run.telemetry.pulse.expect(run.telemetry.tolerance.seconds)
    return moved


def _follow(run: Run, agreement: Agreement, norm: Tensor | None) -> bool:
    """Carry out an agreement; return whether the position in the data has changed."""
    if not agreement.sound:
        roll_back(run)
        _skip_bad_data(run)
        run.agenda.plan_next(run.progress.step)
        return True
    count_skipped(run)
    _carry_out(run, agreement, norm)
    if not run.reserved:
        _reserve(run)
    moved = _skip_bad_data(run)
    run.agenda.interval = agreement.interval
    run.agenda.plan_next(run.progress.step)
    run.clock.meet(run.progress.step)
    return moved


def _skip_bad_data(run: Run) -> bool:
    """Skip bad data that starts at this step, and carry out what is due at its end; return whether there was any."""
    moved = False
    while skip_past_bad_data(run):  # Another range of bad data may start where this one ends.
        moved = True
        _carry_out(run, _agree(run, None), None)
        run.clock.meet(run.progress.step)
    return moved


def _carry_out(run: Run, agreement: Agreement, norm: Tensor | None) -> None:
    """Carry out what is due after a step, in an order such that a checkpoint contains everything of its step."""
    step, agenda = run.progress.step, run.agenda
    loss = run.clock.window_loss(agreement.loss_sum, _steps_counted(run))
    if agenda.ends_epoch(step):
        _close_epoch(run, agreement)
    _report_progress(run, loss, float(norm) if norm is not None else None)
    if agenda.evaluates(step):
        _evaluate(run)
    if (agreement.save or agreement.stop or agenda.saves(step) or _is_best_to_keep(run)) and run.saved_step != step:
        _save(run)
    if agreement.stop and step < agenda.total_steps:
        with run.telemetry.charge(Activity.CHECKPOINTING):
            run.checkpoints.writer.wait()
        raise PreemptedError(f"stopped on request at step {step}; the state is saved")


def _agree(run: Run, norm: Tensor | None) -> Agreement:
    clock, agenda = run.clock, run.agenda
    mine = float(run.progress.loss_sum)
    save = interval = 0.0
    if run.placement.leads:
        waited = time.monotonic() - clock.saved
        save = float(agenda.save_seconds > 0 and waited >= agenda.save_seconds and not run.checkpoints.writer.busy)
        interval = float(agenda.suggest_interval(clock.step_seconds(run.progress.step)))
    sound = is_sound(run, norm)
    stop, save, interval, broken, total = run.group.sum(
        [float(run.stop_requested), save, interval, float(not sound), mine if sound else 0.0]
    )
    return Agreement(stop > 0, save > 0, int(interval), total / run.group.size, sound=broken == 0)


def _steps_counted(run: Run) -> int:
    """Return the number of steps of the epoch taken so far."""
    return (run.progress.step - 1) % run.agenda.steps_per_epoch + 1 - run.progress.omissions.in_epoch


def _close_epoch(run: Run, agreement: Agreement) -> None:
    progress, counted = run.progress, _steps_counted(run)
    loss = agreement.loss_sum / counted if counted > 0 else None
    epoch = progress.step // run.agenda.steps_per_epoch
    progress.history.append({"epoch": epoch, "step": progress.step, "loss": loss})
    progress.loss_sum.zero_()
    progress.omissions.before_epoch += progress.omissions.in_epoch
    run.clock.expect_losses()


def _report_progress(run: Run, loss: float | None, norm: float | None) -> None:
    timed = run.learner.engine.watch.read()
    run.telemetry.pulse.seconds = run.learner.engine.watch.own
    if not run.placement.leads and run.telemetry.metrics is None:
        return
    clock, step = run.clock, run.progress.step
    samples = run.data.sampler.samples_before(step)
    epoch = step // run.agenda.steps_per_epoch
    rate = run.learner.update.rate(step - 1)
    steps_per_second, throughput = clock.rates(step, samples)
    norm = norm if norm is not None and math.isfinite(norm) else None
    figures = run.telemetry.scale.measure(throughput, steps_per_second, timed)
    run.telemetry.report(
        step=step, epoch=epoch, samples=samples, loss=loss, learning_rate=rate, grad_norm=norm, **figures.to_report()
    )
    if run.telemetry.metrics is not None:
        run.telemetry.metrics.observe(step=step, epoch=epoch, loss=loss, rate=rate, norm=norm, figures=figures)
        seconds = [after - before for before, after in zip(run.step_ends, run.step_ends[1:], strict=False)]
        run.telemetry.metrics.observe_steps(seconds, samples - run.data.sampler.samples_before(clock.met_step))
        run.step_ends.clear()
    if time.monotonic() - clock.logged >= LOG_SECONDS:
        clock.logged = time.monotonic()
        percent = 100 * step // run.agenda.total_steps
        shown = f"loss {_shown(loss)}{_speed(figures)}"
        run.telemetry.log(f"step {step:,}/{run.agenda.total_steps:,} ({percent} %), epoch {epoch}, {shown}")


def _speed(figures: Figures) -> str:
    if figures.tokens_per_second:
        mfu = f", {figures.mfu:.1%} of peak" if figures.mfu else ""
        return f", {figures.tokens_per_second:,.0f} tokens/s{mfu}"
    return f", {figures.samples_per_second:,.0f} samples/s" if figures.samples_per_second else ""


def _shown(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4g}"


def _evaluate(run: Run) -> None:
    run.telemetry.report(phase=WorkerPhase.EVALUATING)
    evaluation = _measure_average(run)
    if evaluation is not None:
        run.progress.evaluation = evaluation
        run.progress.evaluations.append(evaluation)
        if is_better(evaluation, run.progress.best, run.spec.deciding_metrics):
            run.progress.best = evaluation
        _consider_stopping(run, evaluation)
    run.telemetry.report(phase=WorkerPhase.TRAINING, evaluation=run.progress.evaluation, best=run.progress.best)


def _measure_average(run: Run) -> Evaluation | None:
    """Evaluate the validation split, with averaged weights if there are any."""
    if run.learner.update.average is None:
        return measure_split(run, "validation")
    with run.learner.update.average.applied():
        return measure_split(run, "validation")


def _consider_stopping(run: Run, evaluation: Evaluation) -> None:
    stopping = run.spec.training.early_stopping
    if stopping is None or not should_stop_early(run.progress.patience, stopping, evaluation.metrics):
        return
    run.agenda.total_steps = run.progress.step
    run.telemetry.report(total_steps=run.progress.step)
    run.telemetry.warn(
        f"stopped early at step {run.progress.step}: {stopping.metric} has not improved in {stopping.patience} "
        "evaluation(s)"
    )


def _is_best_to_keep(run: Run) -> bool:
    """Whether the spec keeps the best checkpoint, and the evaluation of this step is the best so far."""
    best = run.progress.best
    return run.spec.checkpoint.keep_best and best is not None and best.step == run.progress.step


def _save(run: Run) -> None:
    with run.telemetry.charge(Activity.CHECKPOINTING):
        _begin_saving(run)


def _begin_saving(run: Run) -> None:
    """Pass the state to the writer, which first waits for the previous save."""
    share_buffers(run.learner.model, run.group)
    if run.learner.update.average is not None:
        run.group.broadcast_tensors(run.learner.update.average.buffers)
    state = _state_to_save(run)
    run.clock.saved = time.monotonic()
    run.saved_step = run.progress.step
    if state is not None:
        facts = {
            "trainSamples": run.data.sampler.samples,
            "data": run.data.dataset.measured.to_json(),
            "optimizer": str(run.spec.optimizer.name),
        }
        run.checkpoints.writer.save(state, facts | run.progress.to_facts())


def _reserve(run: Run) -> None:
    """Have the writer allocate memory for the first save, now that the optimizer's state exists."""
    run.reserved = True
    state = _state_to_save(run)
    if state is not None:
        run.checkpoints.writer.reserve(state)


def _state_to_save(run: Run) -> State | None:
    """Return the part of the state that this rank saves; None if it saves none. All ranks must call this."""
    packed = run.group.gather(pack_rank(run.progress))
    if not (run.checkpoints.folder.shared or run.placement.leads):
        return None
    return gather_state(run.learner.model, run.learner.optimizer, run.learner.update.extras(), packed)
