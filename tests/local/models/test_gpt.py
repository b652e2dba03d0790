"""Our GPT beside transformers' GPT-2: the same weights say the same, however they are stored."""

import json

import pytest
import torch
import transformers

from trainwright.api.job import read_spec
from trainwright.api.spec.task import TaskName
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.generation import generate
from trainwright_worker.models.pretrained import load_pretrained
from trainwright_worker.models.recompute import enable_gradient_checkpointing

pytestmark = pytest.mark.local

FACTS = Facts((16,), 90, vocabulary=90)


def spec_of(model):
    raw = {"model": model, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}
    return read_spec(raw).model_copy(update={"task": TaskName.LANGUAGE_MODELING})


def started(root, model=None, facts=FACTS):
    spec = spec_of({"name": "gpt", "pretrained": "gpt2", **(model or {})})
    built = build(spec, facts, str(root))
    return built.eval(), load_pretrained(built, spec, facts, str(root))


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=90, n_embd=32, n_layer=3, n_head=4, n_positions=24, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases too
    return model


@pytest.mark.parametrize("form", ["whole", "shards", "bare", "torch"])
def test_a_folder_of_transformers_is_read(tmp_path, theirs, form):
    folder = tmp_path / "gpt2"
    if form == "torch":
        theirs.config.save_pretrained(folder)
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    elif form == "bare":
        theirs.transformer.save_pretrained(folder)  # as OpenAI's own copies are stored, without a head
    else:
        theirs.save_pretrained(folder, max_shard_size="20KB" if form == "shards" else "1GB")
    assert (folder / "model.safetensors.index.json").exists() == (form == "shards")
    model, notes = started(tmp_path)
    assert notes == ["starting from gpt2: 40 tensors"]
    tokens = torch.randint(0, 90, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_it_generates_what_transformers_generates(tmp_path, theirs):
    theirs.save_pretrained(tmp_path / "gpt2")
    model, _ = started(tmp_path)
    prompts = torch.randint(0, 90, (2, 5))
    expected = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert torch.equal(generate(model, prompts, 12, temperature=0), expected)


def test_losses_have_the_same_gradient(tmp_path, theirs):
    theirs.save_pretrained(tmp_path / "gpt2")
    model, _ = started(tmp_path)
    tokens = torch.randint(0, 90, (2, 10))
    for logits in (model(tokens), theirs(tokens).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    embedding = theirs.transformer.wte.weight.grad
    torch.testing.assert_close(model.inputs.weight.grad, embedding, atol=1e-5, rtol=1e-3)
    last = theirs.transformer.h[2].mlp.c_proj.weight.grad.T
    torch.testing.assert_close(model.blocks[2].feed_forward.down.weight.grad, last, atol=1e-5, rtol=1e-3)
    theirs.zero_grad()


@pytest.mark.parametrize(
    ("change", "model", "facts", "words"),
    [
        (
            {},
            {},
            Facts((16,), 91, vocabulary=91),
            "spec.model.pretrained: the model's vocabulary has 90 tokens, but .* has 91",
        ),
        (
            {},
            {},
            Facts((25,), 90, vocabulary=90),
            "the model takes 24 positions, but the data has sequences of length 25",
        ),
        ({}, {"args": {"layers": 4}}, FACTS, "the weights do not match the model: missing: blocks.3.norm1.weight"),
        (
            {},
            {"args": {"dimension": 64}},
            FACTS,
            r"attention.qkv.weight has shape \(96, 32\), the model needs \(192, 64\)",
        ),
        ({}, {"args": {"size": "124M"}}, FACTS, "spec.model.args.size: 124M is 12 layers, .* is 3 layers, 4 heads"),
        ({"model_type": "llama"}, {}, FACTS, "describes a model of type llama"),
        ({"auto_map": {"AutoModel": "m.M"}}, {}, FACTS, "refers to custom code .auto_map., which is never run"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, theirs, change, model, facts, words):
    theirs.save_pretrained(tmp_path / "gpt2")
    config = tmp_path / "gpt2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=words):
        started(tmp_path, model, facts)


def test_recomputation_can_be_compiled():
    torch.manual_seed(0)
    model = build(spec_of({"name": "gpt", "args": {"layers": 2, "heads": 2, "dimension": 16}}), FACTS)
    tokens = torch.randint(0, 90, (2, 16))
    model(tokens).square().mean().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    enable_gradient_checkpointing(model)
    model.compile(backend="aot_eager", fullgraph=True)
    model(tokens).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
