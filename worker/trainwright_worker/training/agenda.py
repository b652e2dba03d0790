"""Plans the steps at which training pauses, and why.

The steps of evaluations, ends of epochs and checkpoints by step are known in advance. In between, the ranks meet about
once per second to agree on events that only some of them know: a worker was told to stop, a checkpoint is due by the
clock, the loss is no longer finite. The loop itself compares one number per step.
"""

from dataclasses import dataclass, field

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.health import NonFinitePolicy
from trainwright_worker.checkpoint.state import TrainingProgress

MEETING_SECONDS = 1.0
DEFAULT_CHECKPOINT_SECONDS = 60
REPEATABLE_STEPS = 8
"""Steps between meetings of a deterministic run, which must skip the same data every time it is repeated."""


@dataclass
class Agenda:
    """The planned pauses of one run.

    Attributes:
        steps_per_epoch: Steps of an epoch.
        total_steps: Steps of the run.
        evaluate_every: Steps between evaluations; 0 to evaluate only at the end.
        save_every: Steps between checkpoints; 0 to save by the clock only.
        save_seconds: Seconds between checkpoints; 0 to save by steps only.
        interval: Steps until the next meeting, agreed by all ranks.
        next: The step at which the loop pauses next.
        holes: Ranges of bad data, as the step counts before and after each; training pauses before each to skip it.
        fixed: If not 0, ranks meet at multiples of this number of steps and ignore the interval. A rollback skips data
            from the last meeting on, so fixed meetings make it repeatable.
    """

    steps_per_epoch: int
    total_steps: int
    evaluate_every: int
    save_every: int
    save_seconds: int
    interval: int = 1
    next: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    fixed: int = 0

    def resume(self, progress: TrainingProgress) -> None:
        """Restore the bad data and the early stop that earlier launches found."""
        self.holes = progress.omissions.holes
        if progress.patience.over:
            self.total_steps = progress.step

    def plan_next(self, step: int) -> None:
        """Set the next pause after `step`."""
        pauses = [_next_multiple(step, self.fixed) or step + self.interval, self.total_steps]
        pauses += [
            _next_multiple(step, every) for every in (self.steps_per_epoch, self.evaluate_every, self.save_every)
        ]
        pauses += [begin for begin, _ in self.holes]
        self.next = min(pause for pause in pauses if pause > step) if step < self.total_steps else step

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ends with this step."""
        return step % self.steps_per_epoch == 0

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after this step; one always is after the last."""
        return step == self.total_steps or (self.evaluate_every > 0 and step % self.evaluate_every == 0)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due by step after this step; one always is after the last."""
        return step == self.total_steps or (self.save_every > 0 and step % self.save_every == 0)

    def suggest_interval(self, seconds_per_step: float) -> int:
        """Return the interval that rank 0 proposes: about a second, or at most twice the previous one."""
        wanted = int(MEETING_SECONDS / max(seconds_per_step, 1e-6))
        return max(1, min(2 * self.interval, wanted))


def make_agenda(spec: TrainingJobSpec, steps_per_epoch: int) -> Agenda:
    """Return the agenda of a job with the given number of steps per epoch."""
    training, evaluation, checkpoint = spec.training, spec.evaluation, spec.checkpoint
    total = training.steps or (training.epochs or 1) * steps_per_epoch
    evaluate_every = evaluation.every_steps or (evaluation.every_epochs or 1) * steps_per_epoch
    save_seconds = checkpoint.every_seconds or (0 if checkpoint.every_steps else DEFAULT_CHECKPOINT_SECONDS)
    rolls_back = spec.health.non_finite == NonFinitePolicy.ROLLBACK
    fixed = REPEATABLE_STEPS if rolls_back and training.deterministic else 0
    return Agenda(steps_per_epoch, total, evaluate_every, checkpoint.every_steps or 0, save_seconds, fixed=fixed)


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every if every else 0
