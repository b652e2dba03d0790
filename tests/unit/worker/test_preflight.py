"""The arithmetic of the preflight and of figures: no model is built here."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainwright.api.amounts import bytes_text, seconds_text
from trainwright.api.devices import find_gpu
from trainwright.api.figures import Preflight
from trainwright.api.job import read_spec
from trainwright.api.spec import OptimizerSpec
from trainwright.api.spec.optimization import OptimizerName
from trainwright.api.spec.task import TaskName
from trainwright.api.spec.training import Precision
from trainwright_worker.data.ragged import Ragged
from trainwright_worker.data.sequences import Tokens
from trainwright_worker.errors import OutOfMemoryError
from trainwright_worker.facts import Facts
from trainwright_worker.preflight.advice import Need, remedies
from trainwright_worker.preflight.assume import assume
from trainwright_worker.preflight.budget import Device, Setup, add_up, setup_of, usual_length
from trainwright_worker.preflight.check import refuse_if_too_large
from trainwright_worker.preflight.measure import Gauge, PassCost, UnmeasurableError, Weights
from trainwright_worker.preflight.verdict import count, judge, scaled, table
from trainwright_worker.reporting.stopwatch import find_stragglers

SETUP = Setup(
    processes=1,
    batch=8,
    micro_batch=8,
    accumulation=1,
    precision=Precision.FP32,
    checkpointing=False,
    sharded=False,
    average=False,
    cuda=True,
    sharing=1,
)
WEIGHTS = Weights(parameters=100, trainable=90, all=400, trained=360, buffers=8, block=100, rest=100, gradient=100)


def passes(samples=8, peak=800, **changes):
    return PassCost(
        **{"samples": samples, "tokens": 0, "saved": 500, "peak": peak, "casts": 0, "logits": 50, "flops": 1000}
        | changes
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h200", "H200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("a100", "A100-40GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("rtx4090", "RTX-4090"),
        ("h100pcie", "H100-PCIe"),
    ],
)
def test_gpus_are_known_by_the_names_that_people_drivers_and_nodes_use(name, found):
    assert find_gpu(name).name == found


def test_an_unknown_gpu_is_none():
    assert find_gpu("Voodoo 2") is None


@pytest.mark.parametrize("name", ["NVIDIA-H100-80GB-HBM3-MIG-2g.20gb", "NVIDIA H100 80GB HBM3 MIG 2g.20gb"])
def test_a_slice_of_a_gpu_has_its_part(name):
    part, whole = find_gpu(name), find_gpu("h100")
    assert (part.name, part.memory) == ("H100-MIG-2g.20gb", 20 * 10**9)
    assert (part.half, part.single) == pytest.approx((whole.half * 2 / 7, whole.single * 2 / 7))
    assert find_gpu(part.name) == part


def test_a_slice_that_is_not_said_is_unknown():
    assert find_gpu("NVIDIA-H100-80GB-HBM3-MIG") is None
    assert find_gpu("NVIDIA-Voodoo-MIG-1g.10gb") is None


def test_memory_of_a_plain_job():
    memory = add_up(WEIGHTS, 720, passes(), SETUP)
    kinds = {name: value for name, value in memory.model_dump().items() if value}
    assert kinds == {"weights": 408, "gradients": 360, "optimizer": 720, "activations": 750, "logits": 50}
    assert memory.total == 408 + 360 + 720 + 750 + 50


def test_memory_of_a_sharded_job():
    setup = replace(SETUP, processes=4, sharded=True, precision=Precision.BF16, average=True)
    memory = add_up(WEIGHTS, 720, passes(casts=200), setup)
    # Two blocks and what lies outside of them are whole in half precision, and one's gradients in full.
    assert memory.gathered == (100 + 2 * 100) / 2 + 100
    outside = replace(WEIGHTS, rest=300, gradient=270)
    assert add_up(outside, 720, passes(), setup).gathered == (300 + 2 * 100) / 2 + 270
    assert (memory.weights, memory.gradients, memory.optimizer, memory.average) == (100 + 8, 90, 180, 90)
    assert memory.casts == 0


def test_without_a_gpu_the_copy_for_checkpoints_takes_the_same_memory():
    # Weights and buffers, 720 of the optimizer, and the average.
    plain = replace(SETUP, cuda=False, average=True)
    assert add_up(WEIGHTS, 720, passes(), plain).saved == 408 + 720 + 360
    assert add_up(WEIGHTS, 720, passes(), replace(plain, cuda=True)).saved == 0
    # The first process alone makes it, in memory of all four of its worker.
    assert add_up(WEIGHTS, 720, passes(), replace(plain, processes=8, sharing=4)).saved == (408 + 720 + 360) / 4
    # Sharded, each makes it of its part.
    sharded = replace(plain, processes=4, sharing=4, sharded=True)
    assert add_up(WEIGHTS, 720, passes(), sharded).saved == 100 + 8 + 180 + 90


def test_a_teacher_is_whole_on_every_process():
    setup = replace(SETUP, processes=4, sharded=True)
    plain, taught = (add_up(weights, 720, passes(), setup) for weights in (WEIGHTS, replace(WEIGHTS, teacher=40)))
    assert (taught.teacher, taught.total - plain.total) == (40, 40)


def test_a_full_batch_is_the_whole_split_and_lies_in_memory():
    spec = read_spec(
        {
            "model": {"name": "linear"},
            "dataset": {"builtin": {"name": "digits"}},
            "training": {"epochs": 1, "fullBatch": True, "microBatchSize": 100},
            "workers": {"processesPerWorker": 2},
        }
    )
    setup = setup_of(spec, samples=1797, cuda=False)
    assert (setup.batch, setup.micro_batch, setup.accumulation) == (1797, 100, 9)
    # The last of the nine passes is smaller.
    assert add_up(WEIGHTS, 0, passes(sample=264), setup).batch == 899 * 264
    assert (
        setup_of(
            spec.model_copy(update={"training": spec.training.model_copy(update={"full_batch": False})}), cuda=False
        ).accumulation
        == 1
    )


def test_copies_in_half_precision_count_where_weights_are_whole():
    assert add_up(WEIGHTS, 0, passes(casts=200), replace(SETUP, precision=Precision.BF16)).casts == 200


class Known:
    """What a job needs, by a formula: 1000 for good, 100 per sample, 10 with recomputation; half of it in bf16."""

    durable = True

    def __init__(self, *, recomputes=True):
        self.recomputes = recomputes

    def kept(self, setup, optimizer=None):
        return (1000 if optimizer is None else 600) // (setup.processes if setup.sharded else 1)

    def memory(self, setup, optimizer=None):
        if not self.can_pass(setup):
            raise UnmeasurableError
        each = 10 if setup.checkpointing else 100
        each //= 1 if setup.precision == Precision.FP32 else 2

        class Memory:
            total = self.kept(setup, optimizer) + each * setup.micro_batch

        return Memory

    def can_pass(self, setup):
        return self.recomputes or not setup.checkpointing

    def allows(self, _setup, _optimizer=None):
        return True

    def frugal(self):
        yield "adafactor", "adafactor"


def texts(available, setup=SETUP, need=None, device=None):
    device = device or Device("CPU", available, cuda=False)
    return [(remedy.text, remedy.bytes) for remedy in remedies(need or Known(), setup, device)]


FRUGAL = "training.precision: bf16", "training.gradientCheckpointing: true"


def test_single_changes_that_suffice_are_told_one_by_one():
    assert texts(1450) == [
        ("optimizer.name: adafactor", 1400),
        ("training.microBatchSize: 4", 1400),
        ("training.gradientCheckpointing: true", 1080),
        ("training.precision: bf16", 1400),
    ]


def test_changes_that_do_not_help_are_not_told():
    assert texts(1100) == [("training.microBatchSize: 1", 1100), ("training.gradientCheckpointing: true", 1080)]
    assert texts(1050, need=Known(recomputes=False))[0] == (
        "training.precision: bf16 and training.microBatchSize: 1",
        1050,
    )


def test_several_changes_are_told_together_where_no_single_one_suffices():
    changes = f"{FRUGAL[0]}, {FRUGAL[1]}, training.microBatchSize: 1 and optimizer.name: adafactor"
    assert texts(630) == [(changes, 605)]


def test_what_no_device_holds_is_sharded_over_the_fewest():
    gpu = Device("H200", 150, cuda=True, gpu=find_gpu("h200"))
    most = f"parallelism: fsdp over 8 H200 with {FRUGAL[0]}, {FRUGAL[1]} and training.microBatchSize: 1"
    some = f"parallelism: fsdp over 16 H200 with {FRUGAL[0]} and {FRUGAL[1]}"
    assert texts(150, device=gpu) == [(most, 125 + 5), (some, 62 + 40)]


def need_of(**changes):
    raw = {"model": {"name": "mlp"}, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}
    spec = read_spec(raw | changes)
    return Need(Gauge(spec, Facts((64,), 10), cuda=False), spec), setup_of(spec, cuda=False)


@pytest.mark.parametrize(
    ("changes", "changed", "optimizer", "allowed"),
    [
        ({}, {"processes": 4, "sharded": True}, None, True),
        ({"training": {"epochs": 1, "globalBatchSize": 4}}, {"processes": 8, "sharded": True}, None, False),
        ({"training": {"epochs": 1, "precision": "fp16"}}, {"processes": 4, "sharded": True}, None, False),
        ({"optimizer": {"name": "adafactor"}}, {"processes": 4, "sharded": True}, None, False),
        ({}, {"processes": 4, "sharded": True}, "adafactor", False),
        ({}, {}, "adafactor", True),
    ],
)
def test_only_what_the_api_accepts_is_advised(changes, changed, optimizer, allowed):
    need, setup = need_of(**changes)
    spec = optimizer and OptimizerSpec(name=OptimizerName(optimizer))
    assert need.allows(replace(setup, **changed), spec) == allowed


def test_what_is_wrong_with_a_job_anyhow_forbids_no_advice():
    need, setup = need_of()
    spec = need_of()[0]._job.model_copy(update={"task": TaskName.REGRESSION})
    assert Need(need._gauge, spec).allows(replace(setup, checkpointing=True))


def test_a_job_in_fp16_is_sharded_in_bf16_and_its_checkpoints_lie_where_all_see_them():
    need, setup = need_of(training={"epochs": 1, "precision": "fp16", "globalBatchSize": 4}, optimizer={"name": "sgd"})
    whole = need.memory(setup).total
    texts = [remedy.text for remedy in remedies(need, setup, Device("CPU", int(0.8 * whole), cuda=False))]
    words = "training.precision: bf16 and checkpoint.persistentVolumeClaim: NAME"
    assert texts == [f"parallelism: fsdp over 4 processes with {words}"]


def test_a_model_that_takes_no_single_sample_is_judged_and_advised_all_the_same():
    layers = [
        {"dense": {"units": 100}},
        {"batchNorm": {"activation": "relu"}},
        {"dense": {"units": 10}},
    ]
    need, setup = need_of(model={"layers": layers}, training={"epochs": 1, "globalBatchSize": 256})
    small = need.memory(replace(setup, micro_batch=2)).total
    preflight, found = judge(need, setup, Device("CPU", small, cuda=False))
    assert not preflight.fits
    assert "training.microBatchSize: 2" in [remedy.text for remedy in found]
    assert not judge(need, setup, Device("CPU", 1000, cuda=False))[0].fits


def test_the_setup_follows_from_the_spec():
    spec = read_spec(
        {
            "model": {"name": "mlp"},
            "dataset": {"builtin": {"name": "digits"}},
            "training": {"epochs": 1, "globalBatchSize": 96, "microBatchSize": 16, "precision": "bf16", "ema": {}},
            "workers": {"count": 2},
        }
    )
    setup = setup_of(spec, cuda=False)
    assert (setup.processes, setup.micro_batch, setup.accumulation) == (2, 16, 3)
    assert (setup.precision, setup.average, setup.sharded) == (Precision.BF16, True, False)
    assert (setup.cuda, setup.sharing) == (False, 1)


def test_the_arithmetic_of_a_step_is_that_of_its_samples_however_unequal_its_passes_are():
    spec = read_spec(
        {
            "model": {"name": "linear"},
            "dataset": {"builtin": {"name": "digits"}},
            "training": {"epochs": 1, "globalBatchSize": 65, "microBatchSize": 64},
        }
    )
    need = Need(Gauge(spec, Facts((64,), 10), cuda=False), spec)
    setup = setup_of(spec, cuda=False)
    assert setup.accumulation == 2
    whole = replace(setup, micro_batch=65, accumulation=1)
    assert need.flops(setup) == pytest.approx(need.flops(whole))


def texts_of(lengths, **changes):
    ends = np.cumsum([0, *lengths])
    rows = torch.arange(len(lengths))
    return Tokens(Ragged(np.zeros(ends[-1], np.int32), ends), rows, torch.zeros_like(rows), 0, max(lengths), **changes)


def test_texts_count_as_long_as_they_are_padded_and_not_as_the_longest():
    generator = torch.Generator().manual_seed(0)
    split = texts_of([500, *torch.randint(5, 40, (639,), generator=generator).tolist()])
    order = torch.randperm(640, generator=generator).split(32)
    real = [split.take(part).input.shape[1] for part in order]
    assert usual_length(split, 32) == pytest.approx(sum(real) / len(real), rel=0.1)
    assert usual_length(split, 640) > 10 * usual_length(split, 1)
    assert usual_length(replace(split, fixed=True), 32) == 500
    assert usual_length(range(4), 32) is None


def test_the_arithmetic_of_a_step_follows_the_usual_length_and_its_memory_the_longest():
    raw = {"model": {"name": "transformer"}, "dataset": {"labeledText": {"path": "a.csv"}}, "training": {"steps": 1}}
    spec = read_spec(raw)
    need, setup = Need(Gauge(spec, Facts((64,), 2, 100, 0), cuda=False), spec), setup_of(spec, cuda=False)
    whole, short = (judge(need, setup, Device("CPU", None, cuda=False), length)[0] for length in (None, 16))
    # Attention's part falls faster.
    assert 0.2 < short.flops_per_step / whole.flops_per_step < 0.25
    assert short.memory == whole.memory


def test_facts_are_taken_from_the_spec_and_assumptions_are_told():
    raw = {
        "task": "language-modeling",
        "model": {"name": "gpt", "args": {"size": "124M", "vocabulary": 50257}},
        "dataset": {"text": {"path": "corpus"}, "tokenizer": {"maxLength": 512}},
        "training": {"steps": 1},
    }
    assumed = assume(read_spec(raw))
    assert assumed.facts.shape == (512,)
    assert (assumed.facts.vocabulary, assumed.facts.outputs) == (50257, 50257)
    assert assumed.notes == ("512 tokens per sample",)
    raw["model"]["args"].pop("vocabulary")
    assert "the tokenizer learns its maximum of 10,000 tokens" in assume(read_spec(raw)).notes


@pytest.mark.parametrize(
    ("tokenizer", "length", "vocabulary"),
    [
        (None, 256, 10_000),
        ({"vocabularySize": 500}, 256, 500),
        ({"name": "byte", "maxLength": 64}, 64, 259),
        ({"path": "gpt2"}, 256, 50_257),
    ],
)
def test_absent_texts_are_assumed_to_be_cut_as_the_job_would_cut_them(tokenizer, length, vocabulary):
    raw = {
        "task": "language-modeling",
        "model": {"name": "gpt", "args": {"context": 1024}},
        "dataset": {"text": {"path": "corpus"}} | ({} if tokenizer is None else {"tokenizer": tokenizer}),
        "training": {"steps": 1},
    }
    facts = assume(read_spec(raw)).facts
    assert (facts.shape, facts.vocabulary, facts.outputs) == ((length,), vocabulary, vocabulary)


def test_numbers_are_told_as_people_tell_them():
    assert [count(number) for number in (10, 99_999, 124_439_808, 174_600_000_000)] == [
        "10", "99,999", "124.4M", "174.6B",
    ]  # fmt: skip
    assert [bytes_text(number) for number in (1, 1536, 3 * 2**30, 5 * 2**41)] == ["1 B", "1.5 KiB", "3 GiB", "10 TiB"]
    assert [seconds_text(number) for number in (16.8, 0.00393, 4e-7, 12_345)] == [
        "16.8 s", "3.93 ms", "0.4 µs", "12,345 s",
    ]  # fmt: skip
    assert scaled(2.5e15) == "2.5 P"


def test_the_table_names_what_takes_memory_and_leaves_out_what_does_not():
    memory = add_up(WEIGHTS, 0, passes(), SETUP)
    preflight = Preflight(
        parameters=100, trainable=90, memory=memory, total_bytes=memory.total, available_bytes=2**30, device="CPU",
        flops_per_step=1e9, global_batch_size=48, micro_batch_size=8, accumulation=2, processes=3,
    )  # fmt: skip
    lines = table(preflight)
    assert lines[0].split(maxsplit=1) == ["parameters", "100, of which 10 are frozen"]
    assert lines[1].endswith(" 48 = 3 process(es) x 2 pass(es) x 8 sample(s)")
    uneven = table(preflight.model_copy(update={"global_batch_size": 47}))
    assert uneven[1].endswith(" 47 = 3 process(es) x 2 pass(es) x up to 8 sample(s)")
    assert not [line for line in lines if line.startswith("optimizer")]
    assert lines[-1].endswith("1.53 KiB of 1 GiB (CPU)")


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ("too large. It fits with a; or b", "preflight: too large", "it fits with a; or b"),
        (
            "too large, and no setting of the job makes it fit",
            "preflight: too large, and no setting of the job makes it fit",
            "use a smaller model, or processes with more memory: spec.workers.resources, or another GPU",
        ),
    ],
)
def test_a_job_that_will_not_fit_ends_with_advice_that_helps(said, message, hint):
    sizes = {"parameters": 1, "trainable": 1, "memory": {}, "total_bytes": 1}
    with pytest.raises(OutOfMemoryError) as ended:
        refuse_if_too_large(Preflight(**sizes, fits=False, message=said))
    assert (ended.value.message, ended.value.hint) == (message, hint)


def test_stragglers_are_measured_against_most_and_named_with_the_slowest_first():
    paces = [(0, 0.10), (1, 0.11), (2, 0.20), (3, 0.10), (4, 0.15)]
    found = find_stragglers(paces, 8)
    assert [(straggler.rank, round(straggler.factor, 3)) for straggler in found] == [(2, 1.818), (4, 1.364)]
    assert [straggler.rank for straggler in find_stragglers(paces, 1)] == [2]


def test_of_two_ranks_the_slower_one_lags():
    assert [straggler.rank for straggler in find_stragglers([(0, 0.3), (1, 0.1)], 8)] == [0]


def test_small_differences_and_unknown_paces_say_nothing():
    assert find_stragglers([(0, 0.0), (1, 0.1)], 8) == []
    assert find_stragglers([(0, 0.0001), (1, 0.0003)], 8) == []
