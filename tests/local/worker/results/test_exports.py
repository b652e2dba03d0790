"""Exported models against the trained ones, on inputs of other sizes than they were traced with."""

import json

import onnx
import onnxruntime
import pytest
import torch
from corpora import write_imagenet
from trained import train, write_reviews

from trainwright.api.spec import ExportSpec
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.errors import UserError
from trainwright_worker.results import export as exports
from trainwright_worker.results.export import check_export, export, measured_split
from trainwright_worker.results.folder import ResultsFolder
from trainwright_worker.tasks.table import make_task

pytestmark = pytest.mark.local

BOTH = ExportSpec.model_validate_json('{"formats": ["onnx", "int8"]}')
DIGITS = {"builtin": {"name": "digits"}}
CNN = {"model": {"name": "cnn", "args": {"channels": [8], "hidden": [32]}}, "dataset": DIGITS}
TEXTS = {"labeledText": {"path": "reviews.jsonl"}}
SEQUENCES = {
    "layers": [
        {"embedding": {"dimension": 16}},
        {"lstm": {"units": 16, "bidirectional": True, "output": "sequence"}},
        {"gru": {"units": 16}},
        {"dense": {"units": 2}},
    ]
}
LSTM = {"name": "lstm", "args": {"bidirectional": True, "layers": 2, "hidden": 16, "embedding": 16}}


def make(job, steps, folder):
    write_reviews(folder / "reviews.jsonl")
    (folder / "plain.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    spec, data, model = train(job, steps, str(folder))
    task = make_task(spec)
    check_export(spec.model_copy(update={"export": BOTH}), data, task.facts(data), str(folder))
    made = export(BOTH, model, data, task, ResultsFolder(str(folder)), lambda _, make: make())
    return spec, data, model, {one.format: one for one in made}


def run(path, batch):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {"inputs": batch.input.numpy()} | ({} if batch.mask is None else {"mask": batch.mask.numpy()})
    return torch.from_numpy(session.run(None, given)[0])


def accuracy(path, split):
    batch = split.take(torch.arange(len(split)))
    return int((run(path, batch).argmax(1) == batch.target).sum()) / len(split)


@pytest.mark.parametrize(
    ("model", "data", "kinds"),
    [
        ({"name": "mlp"}, {"builtin": {"name": "wine"}}, {"Gemm"}),
        (CNN["model"], DIGITS, {"Conv"}),
        ({"name": "rnn", "args": {"hidden": 16}}, TEXTS, {"RNN"}),
        ({"name": "gru", "args": {"hidden": 16, "bidirectional": True}}, TEXTS, {"GRU"}),
        (LSTM, TEXTS, {"LSTM"}),
        (SEQUENCES, TEXTS, {"LSTM", "GRU"}),
        ({"name": "transformer", "args": {"dimension": 32, "heads": 2, "layers": 1}}, TEXTS, {"MatMul"}),
    ],
    ids=["mlp", "cnn", "rnn", "gru", "lstm", "sequences", "transformer"],
)
def test_an_exported_classifier_answers_as_the_trained_one(model, data, kinds, tmp_path):
    _, dataset, trained, made = make({"model": model, "dataset": data}, 10, tmp_path)
    whole = made["onnx"]
    assert kinds <= {node.op_type for node in onnx.load(whole.path).graph.node}
    for count in (1, 5):
        batch = dataset.splits.train.take(torch.arange(count))  # Fewer, and where they are texts shorter ones.
        with torch.no_grad():
            expected = run_model(trained, batch)
        assert torch.allclose(run(whole.path, batch), expected, atol=1e-5)
    assert whole.metrics["maxDifference"] < 1e-5
    assert whole.metrics["accuracy"] == pytest.approx(accuracy(whole.path, dataset.splits.test))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "torchvision:resnet18"},
        {"name": "timm:vit_tiny_patch16_224", "args": {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48}},
        {
            "name": "hf:vit",
            "args": {"patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        },
    ],
    ids=lambda model: model["name"],
)
def test_exported_image_models_of_other_libraries_answer_as_the_trained_ones(model, tmp_path):
    write_imagenet(tmp_path / "photos", classes=2, samples=10)
    data = {"imageFolder": {"path": "photos", "size": 32}}
    _, dataset, trained, made = make({"model": model, "dataset": data}, 2, tmp_path)
    for count in (1, 3):
        batch = dataset.splits.train.take(torch.arange(count))
        with torch.no_grad():
            expected = run_model(trained, batch)
        assert torch.allclose(run(made["onnx"].path, batch), expected, atol=1e-4)
    assert made["onnx"].metrics["accuracy"] == pytest.approx(accuracy(made["onnx"].path, measured_split(dataset)))


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("model", "text", "task"),
    [
        ({"name": "hf:bert", "args": SMALL}, TEXTS, "classification"),
        ({"name": "hf:gpt2", "args": {"n_embd": 32, "n_layer": 2, "n_head": 2}}, {"text": {"path": "plain.txt"}}, "language-modeling"),
    ],
    ids=["bert", "gpt2"],
)  # fmt: skip
def test_exported_models_of_transformers_answer_as_the_trained_ones(model, text, task, tmp_path):
    data = text | {"tokenizer": {"name": "word" if task == "classification" else "character", "maxLength": 32}}
    _, dataset, trained, made = make({"model": model, "dataset": data, "task": task}, 5, tmp_path)
    for count in (1, 5):
        batch = dataset.splits.train.take(torch.arange(count))
        with torch.no_grad():
            expected = run_model(trained, batch)
        assert torch.allclose(run(made["onnx"].path, batch), expected, atol=1e-4)


def test_a_language_model_is_exported_for_texts_of_any_length(tmp_path):
    gpt = {"name": "gpt", "args": {"layers": 1, "heads": 2, "dimension": 32}}
    data = {"text": {"path": "plain.txt"}, "tokenizer": {"name": "character", "maxLength": 32}}
    _, _, trained, made = make({"model": gpt, "dataset": data, "task": "language-modeling"}, 60, tmp_path)
    ids = torch.randint(3, 20, (3, 9))
    with torch.no_grad():
        expected = trained(ids)
    assert torch.allclose(run(made["onnx"].path, Batch.of(ids, ids)), expected, atol=1e-4)
    assert made["onnx"].metrics["token-accuracy"] > 0.3
    assert made["int8"].metrics["loss"] == pytest.approx(made["onnx"].metrics["loss"], rel=0.1)


def test_int8_is_smaller_and_its_accuracy_is_what_it_is_said_to_be(tmp_path):
    job = {"model": {"name": "cnn", "args": {"channels": [16, 32], "hidden": [256]}}, "dataset": DIGITS}
    _, dataset, _, made = make(job, 150, tmp_path)
    for one in made.values():
        assert one.metrics["samples"] == len(dataset.splits.test) == 180
        assert one.metrics["accuracy"] == pytest.approx(accuracy(one.path, dataset.splits.test))
    assert made["onnx"].metrics["accuracy"] > 0.93
    assert made["int8"].metrics["accuracy"] > made["onnx"].metrics["accuracy"] - 0.03
    assert made["int8"].bytes < 0.4 * made["onnx"].bytes
    kinds = {node.op_type for node in onnx.load(made["int8"].path).graph.node}
    assert "QuantizeLinear" in kinds, "activations were calibrated"


def test_dynamic_int8_of_recurrent_layers(tmp_path):
    job = {"model": {"name": "lstm", "args": {"hidden": 64, "embedding": 64}}, "dataset": TEXTS}
    _, dataset, _, made = make(job, 60, tmp_path)
    assert made["int8"].metrics["accuracy"] == pytest.approx(accuracy(made["int8"].path, dataset.splits.test))
    assert made["int8"].metrics["accuracy"] > 0.9
    assert made["int8"].bytes < 0.45 * made["onnx"].bytes
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(made["int8"].path).graph.node}


@pytest.mark.parametrize(
    ("task", "loss", "figures"),
    [
        ("regression", {"name": "huber", "delta": 0.1}, {"loss", "mae", "r2"}),
        ("classification", {"name": "bce"}, {"loss", "accuracy"}),
    ],
)
def test_exports_are_measured_as_the_job_is(task, loss, figures, tmp_path):
    name = "diabetes" if task == "regression" else "wine"
    job = {"model": {"name": "mlp"}, "dataset": {"builtin": {"name": name}}, "task": task, "loss": loss}
    spec, dataset, trained, made = make(job, 5, tmp_path)
    batch, task = dataset.splits.test.take(torch.arange(len(dataset.splits.test))), make_task(spec)
    expected = task.evaluation_loss(task.facts(dataset)).mean(run_model(trained, batch), batch)
    for one in made.values():
        assert one.metrics.keys() == figures | {"samples", "maxDifference"}
    assert made["onnx"].metrics["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_a_file_that_computes_something_else_is_not_published(tmp_path, monkeypatch):
    spec, data, model = train(CNN, 5)

    class Wrong(exports.Session):
        def __call__(self, batch):
            return super().__call__(batch) + 0.1

    monkeypatch.setattr(exports, "Session", Wrong)
    problems = []

    def attempt(name, make):
        try:
            return make()
        except exports.MismatchError as error:
            problems.append(f"{name}: {error}")
            return None

    assert export(BOTH, model, data, make_task(spec), ResultsFolder(str(tmp_path)), attempt) == []
    assert problems == ["spec.export.formats: onnx: the outputs differ by up to 0.1 from those of the trained model"]
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_exported_is_refused_before_training(tmp_path, monkeypatch):
    spec, data, _ = train(CNN, 0)

    class Stubborn(torch.nn.Module):
        def forward(self, inputs):
            return inputs if inputs.sum() > 0 else -inputs

    monkeypatch.setattr(exports, "build", lambda *_: Stubborn())
    with pytest.raises(UserError, match=r"spec\.export: this model cannot be exported: \w+"):
        check_export(spec, data, make_task(spec).facts(data), "")


def test_the_folder_for_transformers_is_read_by_transformers(tmp_path):
    import transformers  # noqa: PLC0415

    from trainwright_worker.results.huggingface import write_pretrained  # noqa: PLC0415

    bert = {"name": "hf:bert", "args": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}}
    bert["args"] |= {"intermediate_size": 64, "max_position_embeddings": 64}
    write_reviews(tmp_path / "reviews.jsonl")
    _, data, model = train(
        {"model": bert, "dataset": TEXTS | {"tokenizer": {"maxLength": 64}}}, 60, str(tmp_path), rate=0.003
    )
    made = write_pretrained(model, data.classes, data.tokenizer, ResultsFolder(str(tmp_path)))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    found = tokenizer("a superb film , brilliant and moving", return_tensors="pt")
    with torch.no_grad():
        theirs = network(**{name: found[name] for name in ("input_ids", "attention_mask")}).logits
    batch = data.batch_of_texts(["a superb film , brilliant and moving"])
    assert torch.allclose(theirs, run_model(model, batch), atol=1e-5)
    assert network.config.id2label[int(theirs.argmax())] == "positive"
    assert json.loads((tmp_path / "results/huggingface/config.json").read_text())["model_type"] == "bert"
