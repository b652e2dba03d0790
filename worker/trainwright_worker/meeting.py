"""What happens when training pauses: the ranks agree on what to do, then do it together.

One sum over a handful of numbers settles everything: whether anyone was told to stop, whether rank 0's clock asks for a
checkpoint, whether every loss is still a number, the mean loss, and when to meet again. The order afterwards (close the
epoch, evaluate, save, stop) is fixed, so that a checkpoint holds all that belongs to its step.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from trainwright.api.status import Evaluation
from trainwright.api.worker import WorkerPhase
from trainwright_worker.errors import NON_FINITE_HINT, NonFiniteError, PreemptedError
from trainwright_worker.evaluate import evaluate
from trainwright_worker.optim import learning_rate
from trainwright_worker.run import Run
from trainwright_worker.state import pack_rank, take_snapshot

LOG_SECONDS: Final = 5.0
SMALLEST_EVALUATION_BATCH: Final = 256


@dataclass(frozen=True)
class Verdict:
    """What the ranks agreed on.

    Attributes:
        stop: Whether to save and end.
        save: Whether the clock asks for a checkpoint.
        interval: Steps until the next meeting.
        loss_sum: Mean over ranks of the sums of losses since the epoch began.
    """

    stop: bool
    save: bool
    interval: int
    loss_sum: float


def hold(run: Run, norm: Tensor | None) -> None:
    """Meet the other ranks after a step, and do what is due.

    Args:
        run: This rank.
        norm: L2 norm of the step's gradient.

    Raises:
        PreemptedError: The ranks agreed to stop; the state is saved.
        NonFiniteError: Some rank's loss is not a number.
    """
    step, agenda = run.progress.step, run.agenda
    verdict = _agree(run)
    loss = _window_loss(run, verdict)
    if agenda.ends_epoch(step):
        _close_epoch(run, verdict)
    _tell_progress(run, loss, float(norm) if norm is not None else None)
    if agenda.evaluates(step):
        _evaluate(run)
    if (verdict.save or verdict.stop or agenda.saves(step)) and run.saved_step != step:
        _save(run)
    if verdict.stop and step < agenda.total_steps:
        run.writer.wait()
        raise PreemptedError(f"stopped on request at step {step}; the state is saved")
    agenda.interval = verdict.interval
    agenda.plan_next(step)
    run.clock.met, run.clock.met_step = time.monotonic(), step


def measure_split(run: Run, name: str) -> Evaluation | None:
    """Measure the model on the split of that name; None if there is none. All ranks must call this."""
    samples = run.dataset.splits.validation if name == "validation" else run.dataset.splits.test
    if samples is None:
        return None
    batch = max(run.sampler.batch // run.group.size, SMALLEST_EVALUATION_BATCH)
    metrics = evaluate(
        run.model,
        run.forward,
        samples,
        run.group,
        run.dataset.normalization,
        batch,
        classify=run.dataset.classes is not None,
    )
    run.pulse.moves += 1
    if not all(math.isfinite(value) for value in metrics.values()):
        raise NonFiniteError(f"the loss on the {name} split is not finite at step {run.progress.step}", NON_FINITE_HINT)
    shown = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
    run.log(f"step {run.progress.step}: {name} {shown}")
    return Evaluation(split=name, step=run.progress.step, metrics=metrics)


def _agree(run: Run) -> Verdict:
    now, clock, agenda = time.monotonic(), run.clock, run.agenda
    mine = float(run.progress.loss_sum)
    save = interval = 0.0
    if run.place.leads:
        save = float(agenda.save_seconds > 0 and now - clock.saved >= agenda.save_seconds)
        steps = max(1, run.progress.step - clock.met_step)
        interval = float(agenda.suggest_interval((now - clock.met) / steps))
    finite = math.isfinite(mine)
    stop, save, interval, broken, total = run.group.sum(
        [float(run.stop_requested), save, interval, float(not finite), mine if finite else 0.0]
    )
    if broken:
        raise NonFiniteError(f"the loss is not finite at step {run.progress.step}", NON_FINITE_HINT)
    return Verdict(stop > 0, save > 0, int(interval), total / run.group.size)


def _window_loss(run: Run, verdict: Verdict) -> float:
    """Return the mean loss since the meeting before (or since the epoch began, if that was later)."""
    steps_in_epoch = (run.progress.step - 1) % run.agenda.steps_per_epoch + 1
    before, steps_before = run.clock.loss_sum, run.clock.loss_steps
    if steps_before >= steps_in_epoch:
        before, steps_before = 0.0, 0
    run.clock.loss_sum, run.clock.loss_steps = verdict.loss_sum, steps_in_epoch
    return (verdict.loss_sum - before) / (steps_in_epoch - steps_before)


def _close_epoch(run: Run, verdict: Verdict) -> None:
    epoch = run.progress.step // run.agenda.steps_per_epoch
    loss = verdict.loss_sum / run.agenda.steps_per_epoch
    run.progress.history.append({"epoch": epoch, "step": run.progress.step, "loss": loss})
    run.progress.loss_sum.zero_()


def _tell_progress(run: Run, loss: float, norm: float | None) -> None:
    if not run.place.leads and run.metrics is None:
        return
    now, clock, step = time.monotonic(), run.clock, run.progress.step
    samples = run.sampler.samples_before(step)
    epoch = step // run.agenda.steps_per_epoch
    rate = learning_rate(run.spec.optimizer.learning_rate, run.spec.schedule, step - 1, run.agenda.total_steps)
    throughput = steps_per_second = None
    if clock.measured_from is None:
        # The first step of a launch allocates and tunes; counting it would spoil the estimate of the time left.
        clock.measured_from, clock.measured_samples, clock.measured_step = now, samples, step
    elif now > clock.measured_from:
        throughput = (samples - clock.measured_samples) / (now - clock.measured_from)
        steps_per_second = (step - clock.measured_step) / (now - clock.measured_from)
    norm = norm if norm is not None and math.isfinite(norm) else None
    run.tell(
        step=step, epoch=epoch, samples=samples, loss=loss, learning_rate=rate, grad_norm=norm,
        samples_per_second=throughput, steps_per_second=steps_per_second,
    )  # fmt: skip
    if run.metrics is not None:
        run.metrics.observe(step=step, epoch=epoch, loss=loss, rate=rate, norm=norm, throughput=throughput)
        seconds = [after - before for before, after in zip(run.step_ends, run.step_ends[1:], strict=False)]
        run.metrics.observe_steps(seconds, samples - run.sampler.samples_before(clock.met_step))
        run.step_ends.clear()
    if now - clock.logged >= LOG_SECONDS:
        clock.logged = now
        speed = f", {throughput:,.0f} samples/s" if throughput else ""
        percent = 100 * step // run.agenda.total_steps
        run.log(f"step {step:,}/{run.agenda.total_steps:,} ({percent} %), epoch {epoch}, loss {loss:.4g}{speed}")


def _evaluate(run: Run) -> None:
    run.tell(phase=WorkerPhase.EVALUATING)
    evaluation = measure_split(run, "validation")
    if evaluation is not None:
        run.progress.evaluation = evaluation
        if run.progress.best is None or _score(evaluation) > _score(run.progress.best):
            run.progress.best = evaluation
    run.tell(phase=WorkerPhase.TRAINING, evaluation=run.progress.evaluation, best=run.progress.best)


def _score(evaluation: Evaluation) -> tuple[float, float]:
    """Return what makes an evaluation better: accuracy where there is one, then a lower loss."""
    return evaluation.metrics.get("accuracy", 0.0), -evaluation.metrics["loss"]


def _save(run: Run) -> None:
    packed = run.group.gather(pack_rank(run.progress))
    run.clock.saved = time.monotonic()
    run.saved_step = run.progress.step
    if run.place.leads:
        facts = {"trainSamples": run.sampler.samples, "data": run.dataset.measured.to_json()}
        run.writer.save(take_snapshot(run.model, run.optimizer, run.progress, packed, {}, facts))
