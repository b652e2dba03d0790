"""Pretrained weights of our own models, low-rank adaptation, and recomputed activations."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainwright.api.job import read_spec
from trainwright.api.spec.model import LoraSpec
from trainwright.api.spec.task import TaskName
from trainwright_worker.errors import UserError, WorkerError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.lora import merge_lora, trained_state
from trainwright_worker.models.pretrained import load_pretrained
from trainwright_worker.models.recompute import blocks_of, enable_gradient_checkpointing

WORDS = Facts((7,), 3, vocabulary=20)
TEXT = Facts((8,), 20, vocabulary=20)
TINY = {"dimension": 16, "heads": 2, "layers": 2}
CNN = {"name": "cnn", "args": {"channels": [2], "hidden": [4]}}


def spec_of(model, task=TaskName.CLASSIFICATION):
    """Return a spec; its model may be adapted though nothing has trained it, which a manifest may not ask for."""
    plain = {key: value for key, value in model.items() if key != "lora"}
    spec = read_spec({"model": plain, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}})
    lora = LoraSpec.model_validate(model["lora"]) if "lora" in model else None
    return spec.model_copy(update={"task": task, "model": spec.model.model_copy(update={"lora": lora})})


def make(model, facts=WORDS, task=TaskName.CLASSIFICATION, seed=0):
    torch.manual_seed(seed)
    return build(spec_of(model, task), facts)


def started(model, facts, root, task=TaskName.CLASSIFICATION, classes=None):
    """Return a model that has loaded what its spec names, and what was said about it."""
    built = make(model, facts, task, seed=1)
    return built, load_pretrained(built, spec_of(model, task), facts, str(root), classes)


@pytest.mark.parametrize("form", ["file.safetensors", "folder/weights.safetensors", "file.pth", "wrapped.pth"])
def test_weights_of_any_form_are_loaded(tmp_path, form):
    source = make({"name": "lstm"})
    state = source.state_dict()
    target = tmp_path / form
    target.parent.mkdir(exist_ok=True)
    if form == "wrapped.pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, target)
    elif form == "file.pth":
        torch.save(state, target)
    else:
        save_file(state, target)
    path = form.split("/")[0]
    model, notes = started({"name": "lstm", "pretrained": path}, WORDS, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert notes == [f"starting from {path}: {len(state)} tensors"]


def test_a_head_for_other_classes_is_replaced_and_said(tmp_path):
    source = make({"name": "lstm"})
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    facts = Facts((7,), 5, vocabulary=20)
    model, notes = started({"name": "lstm", "pretrained": "weights.safetensors"}, facts, tmp_path)
    assert notes[1] == "new head for 5 outputs: head.bias, head.weight"
    assert model.head.weight.shape == (5, 64)
    assert torch.equal(model.embedding.weight, source.embedding.weight)


@pytest.mark.parametrize(
    ("taught", "kept"),
    [
        (["ant", "bee", "cat"], True),
        (["bee", "ant", "cat"], False),
        (["ape", "bear", "cow"], False),
        (None, True),
    ],
)
def test_a_head_is_kept_only_if_it_was_taught_the_same_classes(tmp_path, taught, kept):
    source = make({"name": "lstm"})
    folder = tmp_path / "results"
    folder.mkdir()
    save_file(source.state_dict(), folder / "weights.safetensors")
    (folder / "results.json").write_text(json.dumps({"data": {"classes": taught}}))
    model, notes = started({"name": "lstm", "pretrained": "results"}, WORDS, tmp_path, classes=("ant", "bee", "cat"))
    assert torch.equal(model.head.weight, source.head.weight) == kept
    assert torch.equal(model.embedding.weight, source.embedding.weight)
    said = "new head for 3 outputs: head.bias, head.weight; the pretrained head has other classes or another order of classes"
    assert notes[1:] == ([] if kept else [said])


def test_a_cnn_for_colours_starts_one_for_grey(tmp_path):
    colours, grey = Facts((3, 8, 8), 4), Facts((1, 8, 8), 4)
    source = make(CNN, colours).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    model, _ = started({**CNN, "pretrained": "weights.pt"}, grey, tmp_path)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model.eval()(images), source(images.expand(-1, 3, -1, -1)))


def test_a_padded_vocabulary_starts_from_one_that_is_not(tmp_path):
    source = make({"name": "gpt", "args": TINY}, TEXT, TaskName.LANGUAGE_MODELING)
    save_file(source.state_dict(), tmp_path / "gpt.safetensors")
    model = {"name": "gpt", "args": TINY | {"vocabularyMultiple": 32}, "pretrained": "gpt.safetensors"}
    padded, _ = started(model, TEXT, tmp_path, TaskName.LANGUAGE_MODELING)
    tokens = torch.randint(0, 20, (2, 8))
    logits = padded.eval()(tokens)
    assert logits.shape[2] == 32
    torch.testing.assert_close(logits[..., :20], source.eval()(tokens))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.pth", r"spec.model.pretrained: nothing.pth does not exist"),
        ("empty", r"spec.model.pretrained: .*empty contains none of the files model.safetensors, weights.safetensors"),
        ("damaged.safetensors", r"spec.model.pretrained: .*damaged.safetensors holds no readable weights"),
        ("code.pth", r"spec.model.pretrained: .*code.pth holds no readable weights: Weights only load failed"),
        ("other.safetensors", r"do not match the model: missing: .*; not in the model: head.bias, head.weight"),
        ("wider.safetensors", r"layers.cells.weight_ih_l0 has shape \(256, 64\), the model needs \(32, 64\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    torch.save({"weight": torch.zeros(1), "code": pytest.raises}, tmp_path / "code.pth")
    save_file({"head.weight": torch.zeros(3, 3), "head.bias": torch.zeros(3)}, tmp_path / "other.safetensors")
    save_file(make({"name": "lstm"}).state_dict(), tmp_path / "wider.safetensors")
    model = CNN if name.startswith("other") else {"name": "lstm", "args": {"hidden": 8}}
    facts = Facts((1, 8, 8), 3) if model is CNN else WORDS
    with pytest.raises(WorkerError, match=words):
        started({**model, "pretrained": name}, facts, tmp_path)


def adapted(targets=None, dropout=0.0, task=TaskName.LANGUAGE_MODELING):
    lora = {"rank": 2, "alpha": 8, "dropout": dropout, **({"targets": targets} if targets else {})}
    name, facts = ("gpt", TEXT) if task == TaskName.LANGUAGE_MODELING else ("transformer", WORDS)
    return make({"name": name, "args": TINY, "lora": lora}, facts, task)


def train(model, steps=3):
    """Take steps that change all that may change."""
    tokens = torch.randint(0, 20, (4, 7))
    optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()


def test_lora_starts_as_the_model_it_adapts_and_trains_nothing_else():
    plain = make({"name": "gpt", "args": TINY}, TEXT, TaskName.LANGUAGE_MODELING)
    model = adapted()
    model.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randint(0, 20, (2, 8))
    assert torch.equal(model(tokens), plain(tokens))
    train(model)
    assert not torch.allclose(model(tokens), plain(tokens), atol=1e-4)
    state = model.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(state[name], value), name
    names = [f"blocks.{block}.attention.qkv.lora_{part}" for block in range(2) for part in ("down", "up")]
    assert sorted(trained_state(model)) == sorted(names)
    assert sum(value.numel() for value in trained_state(model).values()) == 2 * 2 * (16 + 48)


@pytest.mark.parametrize("targets", [None, ["qkv", "feed_forward.up"], ["blocks.1.*"]])
def test_merged_lora_says_the_same_without_any_trace(targets):
    model = adapted(targets, dropout=0.5).eval()
    train(model)
    tokens = torch.randint(0, 20, (2, 8))
    before = model(tokens)
    merge_lora(model)
    torch.testing.assert_close(model(tokens), before)
    plain = make({"name": "gpt", "args": TINY}, TEXT, TaskName.LANGUAGE_MODELING)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain.eval()(tokens), before)


def test_lora_of_a_classifier_trains_its_new_head():
    trained = trained_state(adapted(task=TaskName.CLASSIFICATION))
    assert {name for name in trained if "lora" not in name} == {"head.weight", "head.bias"}


def test_lora_survives_a_copy():
    model = adapted().eval()
    train(model)
    tokens = torch.randint(0, 20, (2, 8))
    before = model(tokens)
    twin = copy.deepcopy(model)
    merge_lora(model)
    torch.testing.assert_close(twin(tokens), before)


@pytest.mark.parametrize(
    ("model", "facts", "words"),
    [
        (
            {"name": "transformer", "args": TINY, "lora": {"targets": ["qkv", "query"]}},
            WORDS,
            r"spec.model.lora.targets\[1\]: no linear layer is called query",
        ),
        ({**CNN, "lora": {}}, Facts((1, 8, 8), 3), "spec.model.lora: the model has no attention"),
    ],
)
def test_lora_without_a_layer_to_adapt(model, facts, words):
    with pytest.raises(UserError, match=words) as error:
        make(model, facts)
    assert "set targets to some of: " in error.value.hint


def gradients(model, inputs, seed=3):
    torch.manual_seed(seed)
    model.train()
    model.zero_grad()
    model(inputs).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_recomputed_activations_give_the_same_gradients(positions):
    model = make({"name": "transformer", "args": TINY | {"dropout": 0.3, "positions": positions}})
    tokens = torch.randint(0, 20, (4, 7))
    expected = gradients(model, tokens)
    kept = []
    handle = model.blocks[0].feed_forward.up.register_forward_hook(lambda *_: kept.append(1))
    enable_gradient_checkpointing(model)
    found = gradients(model, tokens)
    assert kept == [1, 1], "the block was computed again"
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    handle.remove()
    model.eval()(tokens)


def test_recomputation_counts_a_batch_once():
    def residual():
        return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())

    torch.manual_seed(0)
    plain = nn.Sequential(residual(), residual(), nn.Flatten(), nn.Linear(32, 2))
    model = copy.deepcopy(plain)
    assert len(blocks_of(model)) == 2
    enable_gradient_checkpointing(model)
    images = torch.rand(4, 2, 4, 4)
    for _ in range(3):
        expected, found = gradients(plain, images), gradients(model, images)
        for name, gradient in expected.items():
            assert torch.equal(found[name], gradient), name
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_copy_of_a_model_that_recomputes_is_a_model_of_its_own():
    model = make({"name": "transformer", "args": TINY}).eval()
    enable_gradient_checkpointing(model)
    tokens = torch.randint(0, 20, (2, 7))
    before = model(tokens)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(tokens), before)


def test_a_model_without_blocks_cannot_recompute():
    with pytest.raises(UserError, match=r"spec\.training\.gradientCheckpointing"):
        enable_gradient_checkpointing(make({"name": "lstm"}))
