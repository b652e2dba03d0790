"""The program behind `trainwright plan`: reads a request as JSON from standard input and prints the answer as JSON."""

import json
import sys

from trainwright.api.devices import find_gpu
from trainwright.api.preflight import PreflightAnswer, PreflightRequest, Remedy
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.paths import is_uri, list_paths
from trainwright_worker.console import leave
from trainwright_worker.data.dataset import measure, process, read
from trainwright_worker.data.given import samples_to_predict
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.errors import UserError, WorkerError
from trainwright_worker.own_code import add_code
from trainwright_worker.preflight.advice import Need
from trainwright_worker.preflight.assume import (
    Assumed,
    assume,
    has_absent_tokenizer,
    teacher_as_known,
    without_absent_weights,
)
from trainwright_worker.preflight.budget import CUDA_CONTEXT, Device, setup_of, this_device, usual_length
from trainwright_worker.preflight.measure import Gauge, UnmeasurableError
from trainwright_worker.preflight.verdict import judge, table
from trainwright_worker.tasks.table import make_task


def main() -> int:
    """Answer the request; return 0 even if the answer is an error in the job."""
    question = PreflightRequest.model_validate_json(sys.stdin.read())
    # Kept outside `_answer`, so that an error is reported together with the assumptions that may have caused it.
    notes: list[str] = []
    try:
        answer = _answer(question, notes)
    except WorkerError as error:
        answer = PreflightAnswer(mistake=error.message, hint=error.hint, assumed=notes)
    except UnmeasurableError as error:
        answer = PreflightAnswer(
            mistake=f"the memory of this model cannot be estimated without running it: {error}", assumed=notes
        )
    sys.stdout.write(json.dumps(answer.to_wire()) + "\n")
    return 0


def _answer(question: PreflightRequest, notes: list[str]) -> PreflightAnswer:
    """Return what the job needs, and append every assumption to `notes` as soon as it is made."""
    add_code(question.spec, question.data_root)
    device = _device(question)
    spec, unread = without_absent_weights(question.spec, question.absent)
    assumed = _facts(spec, question)
    notes += [*assumed.notes, *unread]
    teacher, said = teacher_as_known(spec, question.absent, question.data_root)
    notes += said
    gauge = Gauge(spec, assumed.facts, cuda=device.cuda, root=question.data_root, teacher=teacher)
    need = Need(gauge, spec)
    setup = setup_of(spec, samples=assumed.samples, cuda=device.cuda)
    length = None if assumed.split is None else usual_length(assumed.split, setup.micro_batch)
    preflight, found = judge(need, setup, device, length)
    peak = device.peak(spec.training.precision)
    return PreflightAnswer(
        preflight=preflight,
        table=table(preflight),
        assumed=notes,
        ways=[Remedy(change=way.text, processes=way.setup.processes, bytes=way.bytes) for way in found],
        seconds_per_step=None if peak is None else preflight.flops_per_step / preflight.processes / peak / question.mfu,
    )


def _device(question: PreflightRequest) -> Device:
    if question.unnamed_gpu:
        return Device("GPU", question.memory, cuda=True)
    if question.gpu is None:
        here = this_device(question.spec.workers.processes_per_worker)
        return here if question.memory is None else Device(here.name, question.memory, cuda=here.cuda, gpu=here.gpu)
    gpu = find_gpu(question.gpu)
    if gpu is None:
        raise UserError(f"--gpu: {question.gpu!r} is not a known GPU")
    return Device(gpu.name, question.memory or gpu.memory - CUDA_CONTEXT, cuda=True, gpu=gpu)


def _facts(spec: TrainingJobSpec, question: PreflightRequest) -> Assumed:
    """Return the facts of the data: read from the data if it is available, else derived from the spec."""
    root, paths = question.data_root, [path for _, path in list_paths(spec.dataset)]
    absent = any(field.startswith("spec.dataset.") for field in question.absent)
    if (
        not paths
        or absent
        or any(is_uri(path) for path in paths)
        or has_absent_tokenizer(question.spec, question.absent)
    ):
        return assume(question.spec)
    splits, classes = read(spec, root)
    dataset = process(spec, splits, measure(spec, splits, classes, root), Scratch())
    if spec.prediction is not None:
        samples_to_predict(spec.prediction, dataset)
    if not spec.training.full_batch and len(splits.train) < spec.training.global_batch_size:
        raise UserError(
            f"spec.training.globalBatchSize: {spec.training.global_batch_size}, but the training split has only "
            f"{len(splits.train)} samples"
        )
    return Assumed(make_task(spec).facts(dataset), (), dataset.splits.train)


if __name__ == "__main__":
    leave(main())
