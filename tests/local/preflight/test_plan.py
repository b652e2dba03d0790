"""`trainwright plan` as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.local

JOB = """\
apiVersion: trainwright.dev/v1alpha1
kind: TrainingJob
metadata:
  name: job
spec:
{spec}
"""
GPT3 = """\
  task: language-modeling
  model: {name: gpt, args: {size: 175B}}
  dataset: {text: {path: corpus}, tokenizer: {maxLength: 2048, vocabularySize: 50257}}
  optimizer: {name: adamw}
  training: {steps: 1000, globalBatchSize: 64, microBatchSize: 1, precision: bf16}
  workers: {count: 64}
"""
MLP = """\
  model: {name: mlp, args: {hidden: [64, 64]}}
  dataset: {synthetic: {kind: clusters, features: 100}}
  training: {epochs: 1}
"""
TWO_CONVOLUTIONS = """\
  model:
    layers:
    - conv2d: {channels: 32, kernelSize: 3, activation: relu}
    - conv2d: {channels: 64, kernelSize: 3, activation: relu}
    - maxPool2d: {}
    - dense: {units: 128, inputs: 3136, activation: relu}
    - dense: {units: 10}
  dataset: {idx: {images: train-images, labels: train-labels}}
  training: {epochs: 5}
"""


@pytest.fixture
def plan(tmp_path):
    """Return a function that plans a job and returns (exit code, standard output, standard error)."""

    def run(spec, *options):
        (tmp_path / "job.yaml").write_text(JOB.format(spec=spec.rstrip("\n")))
        program = Path(sys.executable).with_name("trainwright")
        done = subprocess.run(
            [program, "plan", "job.yaml", *options], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_job_that_fits_whatever_files_lie_beside_it(plan, tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('this is not the random of Python')\n")
    code, output, _ = plan(MLP, "--device-memory", "1Gi")
    rows = dict(line.split("  ", 1) for line in output.splitlines() if "  " in line)
    # 100 x 64 + 64, 64 x 64 + 64 and 64 x 10 + 10
    assert code == 0
    assert rows["parameters"].strip() == "11,274"
    assert rows["global batch"].strip() == "64 = 1 process(es) x 1 pass(es) x 64 sample(s)"
    assert rows["memory per process"].strip().endswith("of 1 GiB (CPU)")


@pytest.mark.parametrize(("limit", "expected"), [("128Mi", 1), ("1Gi", 0)])
def test_python_and_torch_take_their_part_of_a_limit(plan, limit, expected):
    code, output, _ = plan(MLP + f"  workers: {{processesPerWorker: 2, resources: {{limits: {{memory: {limit}}}}}}}\n")
    assert code == expected
    assert "besides, Python and torch take 500 MiB of each worker's limit" in output
    assert expected or "of 262 MiB (CPU)" in output


def test_json_says_the_same_to_programs(plan):
    code, output, _ = plan(MLP, "--device-memory", "100Ki", "-o", "json")
    answer = json.loads(output)
    preflight = answer["preflight"]
    assert code == 1
    assert preflight["memory"]["weights"] == 4 * 11_274
    assert preflight["memory"]["optimizer"] == 2 * 4 * 11_274 + 4 * 6
    assert preflight["totalBytes"] == sum(preflight["memory"].values())
    assert (preflight["fits"], preflight["availableBytes"]) == (False, 102_400)
    assert all(way["bytes"] <= 102_400 for way in answer["ways"])


def test_a_model_that_fits_nowhere_here_and_what_would_hold_it(plan):
    code, output, _ = plan(GPT3, "--gpu", "h200", "-o", "json")
    answer = json.loads(output)
    preflight = answer["preflight"]
    assert code == 1
    assert preflight["parameters"] == 174_604_259_328
    assert preflight["memory"]["weights"] == preflight["memory"]["gradients"] == 4 * 174_604_259_328
    # Six operations per parameter and token, and those of attention.
    tokens = 64 * 2048
    assert preflight["flopsPerStep"] == pytest.approx(6 * 174.6e9 * tokens, rel=0.05)
    sharded = answer["ways"][0]
    changes = "training.gradientCheckpointing: true and checkpoint.persistentVolumeClaim: NAME"
    assert sharded["change"] == f"parallelism: fsdp over 64 H200 with {changes}"
    assert 50 * 2**30 < sharded["bytes"] < 80 * 2**30
    assert "2,048 tokens per sample" in answer["assumed"]


def test_a_job_for_gpus_is_not_judged_by_this_machine(plan, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = MLP + "  workers: {count: 2, resources: {limits: {nvidia.com/gpu: 1, memory: 1Gi}}}\n"
    code, output, errors = plan(spec.replace("count: 2", "count: 2, processesPerWorker: 2"))
    assert code == 0
    assert "warning: spec.workers.processesPerWorker" in errors
    code, output, errors = plan(spec)
    assert "warning" not in errors
    assert code == 0
    assert "(GPU)" in output
    assert "CPU" not in output
    assert "asks for 1 nvidia.com/gpu per worker and this machine has none: name one with --gpu h200" in errors
    code, output, errors = plan(spec, "--device-memory", "100Ki")
    assert (code, errors) == (1, "")
    assert "does not fit" in output


def test_what_was_assumed_is_said_of_a_job_that_is_wrong_too(plan):
    code, _, errors = plan(
        """\
  model: {layers: [{dense: {units: 2, inputs: 5}}]}
  dataset: {csv: {path: missing.csv, target: kind}}
  training: {epochs: 1}
"""
    )
    assert code == 64
    assert "5, but the layers before it produce 32" in errors
    assert "assumed about data that is not available here: 32 features" in errors


def test_a_path_that_leads_to_nothing_here_is_named_as_it_was_resolved(plan, tmp_path):
    spec = """\
  model: {name: linear}
  task: regression
  dataset: {csv: {path: hause.csv, target: price}}
  training: {epochs: 1}
"""
    for options in ([], ["-o", "json"]):
        code, _, errors = plan(spec, *options)
        assert code == 0
        assert f"spec.dataset.csv.path: {tmp_path}/hause.csv does not exist" in errors
    (tmp_path / "hause.csv").write_text("rooms,price\n" + "3,100\n" * 100)
    assert plan(spec)[2] == ""


def test_a_dense_layer_that_expects_other_inputs_is_found_without_the_data(plan):
    code, _, errors = plan(TWO_CONVOLUTIONS)
    assert code == 64
    assert "spec.model.layers[3].dense.inputs" in errors
    assert "3136, but the layers before it produce 9216" in errors
    assert plan(TWO_CONVOLUTIONS.replace("3136", "9216"))[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpu", "voodoo"), "--gpu\n    'voodoo' is unknown"),
        (("--device-memory", "lots"), "'lots' is not a memory size"),
    ],
)
def test_wrong_options_are_named(plan, options, words):
    code, _, errors = plan(MLP, *options)
    assert code == 64
    assert words in errors


def test_a_volume_that_the_job_does_not_have_is_a_mistake(plan):
    code, _, errors = plan(MLP, "--volume", "data=/nowhere")
    assert code == 64
    assert "the job has no volume named 'data'" in errors
    assert "/nowhere: no such folder" in errors


def test_data_that_is_at_hand_is_read(plan, tmp_path):
    (tmp_path / "points.csv").write_text("a,b,c,kind\n" + "1,2,3,x\n2,3,4,y\n3,1,2,z\n" * 40)
    spec = MLP.replace("synthetic: {kind: clusters, features: 100}", "csv: {path: points.csv, target: kind}")
    _, output, _ = plan(spec, "-o", "json")
    answer = json.loads(output)
    # Three features and three classes.
    assert answer["preflight"]["parameters"] == 3 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3
    assert answer["assumed"] == []


BERT = """\
  model: {name: "hf:bert", pretrained: /models/bert, args: {num_hidden_layers: 2}}
  dataset: {labeledText: {path: reviews}, tokenizer: {maxLength: 128}}
  training: {epochs: 1}
"""


def test_a_tokenizer_that_is_not_at_hand_is_assumed_to_be_the_usual_one_of_its_model(plan):
    answer = json.loads(plan(BERT, "-o", "json")[1])
    assert "a vocabulary of 30,522 tokens, the default of hf:bert" in answer["assumed"]
    known = json.loads(plan(BERT.replace("args: {", "args: {vocab_size: 1000, "), "-o", "json")[1])
    # An embedding of 768 numbers per token.
    difference = answer["preflight"]["parameters"] - known["preflight"]["parameters"]
    assert difference == (30_522 - 1_000) * 768
    own = json.loads(plan(BERT.replace("maxLength", "name: word, maxLength"), "-o", "json")[1])
    assert "the tokenizer learns its maximum of 10,000 tokens" in own["assumed"]


def test_a_teacher_counts_as_far_as_it_is_known(plan, tmp_path):
    taught = MLP + "  distillation: {weights: teacher}\n"
    answer = json.loads(plan(taught, "-o", "json")[1])
    assert answer["preflight"]["memory"].get("teacher", 0) == 0
    assert (
        "the estimate omits the teacher: its weights are not here, and spec.distillation.model is not set"
        in answer["assumed"]
    )
    named = MLP + "  distillation: {weights: teacher, model: mlp, args: {hidden: [32]}}\n"
    answer = json.loads(plan(named, "-o", "json")[1])
    assert answer["preflight"]["memory"]["teacher"] == 4 * (100 * 32 + 32 + 32 * 10 + 10)
    assert "the teacher is mlp with its args" in answer["assumed"]
    (tmp_path / "teacher").mkdir()
    results = {"spec": {"model": {"name": "mlp", "args": {"hidden": [16]}}}}
    (tmp_path / "teacher" / "results.json").write_text(json.dumps(results))
    answer = json.loads(plan(taught, "-o", "json")[1])
    assert answer["preflight"]["memory"]["teacher"] == 4 * (100 * 16 + 16 + 16 * 10 + 10)
    assert answer["assumed"] == []


@pytest.mark.parametrize(
    "name", ["gpt2-finetuning", "bert-finetuning", "resnet50-imagenet", "resnet152-imagenet", "tabular-s3"]
)
def test_examples_are_planned_without_their_volumes(name):
    path = Path(__file__).parents[3] / "manifests" / "examples" / f"{name}.yaml"
    command = [Path(sys.executable).with_name("trainwright"), "plan", path, "--gpu", "h200", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["preflight"]["fits"]
    assert answer["assumed"]
