"""Models of transformers from their types and from folders in their real format; nothing of a hub is there."""

import json
import os

import pytest
import torch
import transformers

from trainwright.api.job import read_spec
from trainwright.api.spec.model import LoraSpec
from trainwright.api.spec.task import TaskName
from trainwright_worker.batch import Batch
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models import huggingface
from trainwright_worker.models.build import build, preload
from trainwright_worker.models.generation import generate
from trainwright_worker.models.lora import merge_lora, trained_state
from trainwright_worker.models.pretrained import load_pretrained
from trainwright_worker.models.recompute import blocks_of, enable_gradient_checkpointing
from trainwright_worker.preflight.dry import uses_all_weights

pytestmark = pytest.mark.local

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24}
REVIEWS = Facts((16,), 2, vocabulary=90, padding=1)
TEXT = Facts((16,), 90, vocabulary=90)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def spec_of(model, task=TaskName.CLASSIFICATION):
    """Return a spec; its model may be adapted though nothing has trained it, which a manifest may not ask for."""
    plain = {key: value for key, value in model.items() if key != "lora"}
    spec = read_spec({"model": plain, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}})
    lora = LoraSpec.model_validate(model["lora"]) if "lora" in model else None
    return spec.model_copy(update={"task": task, "model": spec.model.model_copy(update={"lora": lora})})


def make(kind, facts=REVIEWS, task=TaskName.CLASSIFICATION, root="", **model):
    """Return a model and what was said while it was loaded."""
    torch.manual_seed(0)
    spec = spec_of({"name": f"hf:{kind}", **model}, task)
    built = build(spec, facts, str(root))
    return built.eval(), load_pretrained(built, spec, facts, str(root))


def batch(facts=REVIEWS, real=11):
    tokens = torch.randint(2, facts.vocabulary, (3, facts.shape[0]))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, real:] = False
    return tokens.masked_fill(~mask, 1), mask


@pytest.mark.parametrize(
    ("kind", "args"), [("bert", SMALL), ("roberta", SMALL), ("distilbert", DISTIL), ("gpt2", GPT2), ("electra", SMALL)]
)
def test_a_classifier_learns_and_does_not_see_padding(kind, args):
    model, notes = make(kind, args=args)
    tokens, mask = batch()
    logits = model(tokens, mask)
    assert logits.shape == (3, 2)
    assert notes == []
    torch.testing.assert_close(logits[1:2], model(tokens[1:2, :11]), atol=1e-5, rtol=1e-4)
    model.train()
    torch.nn.functional.cross_entropy(model(tokens, mask), torch.tensor([0, 1, 1])).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_same_folder_says_the_same(tmp_path):
    torch.manual_seed(5)
    config = transformers.BertConfig(vocab_size=90, num_labels=2, pad_token_id=1, **SMALL)
    theirs = transformers.BertForSequenceClassification(config).eval()
    theirs.half().save_pretrained(tmp_path / "bert")
    theirs.float()
    model, notes = make("bert", root=tmp_path, pretrained="bert")
    tokens, mask = batch()
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask.long()).logits
        torch.testing.assert_close(model(tokens, mask), expected, atol=1e-5, rtol=1e-4)
    assert notes == ["starting from bert: 41 tensors"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}, "master weights"


@pytest.mark.parametrize(
    ("kind", "theirs", "config", "unused"),
    [
        ("bert", transformers.BertForMaskedLM, transformers.BertConfig(vocab_size=90, pad_token_id=1, **SMALL), True),
        ("bert", transformers.BertModel, transformers.BertConfig(vocab_size=90, pad_token_id=1, **SMALL), False),
        ("roberta", transformers.RobertaForMaskedLM, transformers.RobertaConfig(vocab_size=90, **SMALL), True),
        (
            "distilbert",
            transformers.DistilBertForSequenceClassification,
            transformers.DistilBertConfig(vocab_size=90, pad_token_id=1, num_labels=7, **DISTIL),
            False,
        ),
        (
            "gpt2",
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(vocab_size=90, bos_token_id=0, eos_token_id=0, **GPT2),
            False,
        ),
    ],
)
def test_another_head_is_replaced_and_said(tmp_path, kind, theirs, config, unused):
    torch.manual_seed(5)
    source = theirs(config)
    source.save_pretrained(tmp_path / "folder")
    model, notes = make(kind, root=tmp_path, pretrained="folder")
    assert notes[1].startswith("new head for 2 outputs: network.")
    assert any(note.startswith("not used: ") for note in notes) == unused
    body = source.base_model.state_dict()
    ours = model.network.base_model.state_dict()
    same = [name for name in body if "pooler" not in name and torch.equal(body[name], ours[name])]
    assert len(same) == len([name for name in body if "pooler" not in name])


def test_a_language_model_generates_what_transformers_generates(tmp_path):
    torch.manual_seed(5)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=90, bos_token_id=0, eos_token_id=0, **GPT2)
    ).eval()
    theirs.save_pretrained(tmp_path / "gpt2")
    model, _ = make("gpt2", TEXT, TaskName.LANGUAGE_MODELING, tmp_path, pretrained="gpt2")
    prompts = torch.randint(0, 90, (2, 5))
    with torch.no_grad():
        assert torch.equal(model(prompts), theirs(prompts).logits)
    expected = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    ids = generate(model, prompts, 25, temperature=0)
    assert torch.equal(ids[:, :17], expected)
    assert ids.shape == (2, 30), "beyond its 24 positions it sees the end of the text"


@pytest.mark.parametrize(
    ("kind", "args"),
    [("llama", SMALL | {"num_key_value_heads": 1}), ("gpt_neox", SMALL), ("gpt2", GPT2), ("bert", SMALL)],
)
def test_other_language_models_start_from_nothing(kind, args):
    model, _ = make(kind, TEXT, TaskName.LANGUAGE_MODELING, args=args)
    prompts = torch.randint(0, 90, (2, 5))
    ids = generate(model, prompts, 6, temperature=0)
    again = prompts
    with torch.no_grad():
        for _ in range(6):
            again = torch.cat((again, model(again)[:, -1:].argmax(2)), 1)
    assert torch.equal(ids, again)


ELECTRA = SMALL | {"embedding_size": 32}
XLM = {"emb_dim": 32, "n_layers": 1, "n_heads": 2}
XLNET = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("bert", SMALL),
        ("roberta", SMALL),
        ("electra", ELECTRA),
        ("xlnet", XLNET | {"attn_type": "uni"}),
        ("gpt2", GPT2),
    ],
)
def test_no_language_model_sees_what_it_is_to_predict(kind, args):
    model, _ = make(kind, Facts((16,), 90, 90, 1), TaskName.LANGUAGE_MODELING, args=args)
    text = torch.randint(2, 90, (2, 16))
    other = text.clone()
    other[:, -1] = (text[:, -1] + 1) % 88 + 2
    with torch.no_grad():
        torch.testing.assert_close(model(text)[:, :-1], model(other)[:, :-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "args"), [("xlm", XLM), ("xlnet", XLNET), ("bert", SMALL | {"is_decoder": False})])
def test_a_language_model_that_looks_ahead_is_refused(kind, args):
    words = f"spec.model.name: hf:{kind} sees the tokens that it must predict"
    with pytest.raises(UserError, match=words) as error:
        make(kind, Facts((16,), 90, 90, 1), TaskName.LANGUAGE_MODELING, args=args)
    assert "use a decoder such as hf:gpt2" in error.value.hint


FNET = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
FUNNEL = {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1, 1]}


@pytest.mark.parametrize(("kind", "args"), [("xlnet", XLNET), ("fnet", FNET), ("funnel", FUNNEL)])
def test_a_classifier_that_reads_the_padding_is_refused(kind, args):
    with pytest.raises(UserError, match=f"spec.model.name: hf:{kind} reads the padding") as error:
        make(kind, args=args)
    assert "such as hf:bert" in error.value.hint


DEBERTA = SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("llama", SMALL),
        ("deberta", DEBERTA),
        ("deberta-v2", DEBERTA),
        ("albert", SMALL | {"embedding_size": 16}),
        ("mpnet", SMALL),
        ("convbert", SMALL | {"embedding_size": 32}),
    ],
)
def test_a_classifier_that_leaves_out_the_padding_is_built(kind, args):
    assert not any(weight.is_meta for weight in make(kind, args=args)[0].parameters())


def test_looking_for_what_a_model_sees_leaves_no_trace(monkeypatch):
    spec = spec_of({"name": "hf:gpt2", "args": GPT2}, TaskName.LANGUAGE_MODELING)
    drawn = []
    for look in (huggingface._looks_ahead, lambda *_: False):
        monkeypatch.setattr(huggingface, "_looks_ahead", look)
        torch.manual_seed(0)
        model = build(spec, TEXT)
        assert all(part.training for part in model.modules())
        assert all(weight.grad is None for weight in model.parameters())
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("task", [TaskName.CLASSIFICATION, TaskName.LANGUAGE_MODELING])
def test_the_task_says_whether_an_encoder_decodes_whatever_its_folder_was_for(tmp_path, task):
    decodes = task == TaskName.LANGUAGE_MODELING
    config = transformers.BertConfig(vocab_size=90, pad_token_id=1, is_decoder=not decodes, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "folder")
    model, _ = make("bert", Facts((16,), 2, 90, 1), task, tmp_path, pretrained="folder")
    first = [model.network.base_model(torch.tensor([[2, 3, last]]))[0][:, 0] for last in (4, 5)]
    assert torch.equal(*first) == decodes


def test_an_image_classifier():
    model, _ = make("vit", Facts((1, 32, 32), 10), args=SMALL | {"patch_size": 8})
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    assert model.network.config.image_size == 32


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    ("kind", "args", "complete"), [("vit", {"patch_size": 8}, True), ("dinov2", {"patch_size": 8}, False)]
)
def test_weights_that_a_model_does_not_use_are_found_without_a_pass(kind, args, complete, recomputed):
    small = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    model, _ = make(kind, Facts((1, 32, 32), 10), args=small | args)
    if recomputed:
        enable_gradient_checkpointing(model)
    images = Batch.of(torch.rand(2, 1, 32, 32), torch.zeros(2, dtype=torch.int64))
    assert uses_all_weights(model, images) == complete
    assert not model.training
    assert all(weight.grad is None for weight in model.parameters())


def test_a_mask_keeps_no_weight_from_being_found():
    model, _ = make("bert", args=SMALL)
    tokens, mask = batch()
    assert uses_all_weights(model, Batch.of(tokens, torch.zeros(3, dtype=torch.int64), mask))


def test_nothing_is_allocated_on_the_meta_device():
    with torch.device("meta"):
        model = build(spec_of({"name": "hf:bert", "args": {"hidden_size": 4096, "num_attention_heads": 32}}), REVIEWS)
    assert sum(parameter.numel() for parameter in model.parameters()) > 10**9
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("kind", "model", "facts", "task", "words"),
    [
        ("bret", {}, REVIEWS, "classification", "spec.model.name: hf has no model bret"),
        ("bert", {"args": {"hiden_size": 3}}, REVIEWS, "classification", "args.hiden_size: the configuration of hf:bert"),
        ("bert", {"args": {"num_labels": 3}}, REVIEWS, "classification", "args.num_labels: follows from the rest"),
        ("bert", {"args": {"auto_map": {}}}, REVIEWS, "classification", "args.auto_map: follows from the rest"),
        ("bert", {"args": {"_attn_implementation": "x/y"}}, REVIEWS, "classification", "args._attn_implementation"),
        ("bert", {"args": {"hidden_size": "big"}}, REVIEWS, "classification", "spec.model.args: hf:bert rejects them"),
        ("bert", {"args": SMALL | {"hidden_size": 33}}, REVIEWS, "classification", "not a multiple of the number of"),
        ("bert", {"args": {"vocab_size": 80}}, REVIEWS, "classification", "vocab_size: the model's vocabulary has 80 tokens"),
        ("bert", {"args": SMALL}, Facts((3, 8, 8), 2), "classification", "transformers has no such model for images"),
        ("deit", {"args": SMALL}, Facts((3, 224, 224), 2), "classification", "hf:deit does not support task classification"),
        ("vit", {"args": SMALL}, REVIEWS, "classification", "transformers has no such model for text"),
        ("vit", {"args": SMALL | {"image_size": 64}}, Facts((3, 32, 32), 2), "classification", "not accept images of 3x32x32"),
        ("bert", {"args": SMALL}, Facts((9, 4), 2), "transcription", "reads text or images, but the data has inputs of 9x4"),
        ("roberta", {"args": SMALL}, Facts((512,), 2, 90, 1), "classification", "takes 510 positions, .* of length 512"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused_by_name(kind, model, facts, task, words):
    with pytest.raises(UserError, match=words):
        make(kind, facts, TaskName(task), **model)


@pytest.mark.parametrize(
    ("change", "model", "facts", "words"),
    [
        ({}, {"name": "hf:roberta"}, REVIEWS, "spec.model.name: hf:roberta, but folder holds a model of type bert"),
        ({"auto_map": {"AutoModel": "m.M"}}, {}, REVIEWS, "refers to custom code .auto_map., which is never run"),
        ({}, {"args": {"hidden_size": 64}}, REVIEWS, r"has shape \(32,\), but the model needs \(64,\)"),
        ({}, {}, Facts((16,), 2, 91, 1), "the model's vocabulary has 90 tokens, but the tokenizer's has 91"),
        ({}, {}, Facts((16,), 2, 90, 5), "with the padding token 1, but the tokenizer's is 5"),
        ({}, {}, Facts((600,), 2, 90, 1), "takes 512 positions, but the data has sequences of length 600"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, change, model, facts, words):
    config = transformers.BertConfig(vocab_size=90, pad_token_id=1, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    spec = spec_of({"name": "hf:bert", "pretrained": "folder", **model})
    with pytest.raises(UserError, match=words):
        load_pretrained(build(spec, facts, str(tmp_path)), spec, facts, str(tmp_path))


def test_code_in_a_folder_never_runs(tmp_path):
    transformers.BertModel(transformers.BertConfig(vocab_size=90, pad_token_id=1, **SMALL)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    auto = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": auto}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="auto_map"):
        make("bert", pretrained=str(tmp_path))
    assert not (tmp_path / "ran").exists()


def assert_merges(model, facts):
    """What LoRA has added, whatever it has learnt, changes no output once it is merged."""
    for name, parameter in model.named_parameters():
        if name.endswith("lora_up"):
            torch.nn.init.normal_(parameter.detach())
    tokens, _ = batch(facts)
    with torch.no_grad():
        before = model(tokens)
        merge_lora(model)
        torch.testing.assert_close(model(tokens), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "args", "task", "count"),
    [
        ("bert", SMALL, "classification", 2 * 2),  # query and value of each block
        ("distilbert", DISTIL, "classification", 2 * 2),
        ("gpt2", GPT2, "language-modeling", 2),  # both, and the keys, in one Conv1D
    ],
)
def test_lora_merges_into_the_same_model(kind, args, task, count):
    task = TaskName(task)
    facts = TEXT if task == TaskName.LANGUAGE_MODELING else REVIEWS
    model, _ = make(kind, facts, task, args=args, lora={"rank": 2})
    names = [name for name in trained_state(model) if "lora_" in name]
    assert len(names) == 2 * count
    assert_merges(model, facts)
    plain, _ = make(kind, facts, task, args=args)
    assert plain.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(("kind", "args", "output"), [("gpt2", GPT2, "lm_head"), ("bert", SMALL, "decoder")])
def test_lora_leaves_out_an_output_layer_that_is_the_embedding_too(kind, args, output):
    model, _ = make(kind, TEXT, TaskName.LANGUAGE_MODELING, args=args, lora={"rank": 2, "targets": ["*"]})
    assert_merges(model, TEXT)
    with pytest.raises(
        UserError, match=rf"lora.targets\[1\]: network.*{output} shares its weight with another"
    ) as error:
        make(kind, TEXT, TaskName.LANGUAGE_MODELING, args=args, lora={"targets": ["*", output]})
    assert output not in error.value.hint


def test_lora_adapts_an_output_layer_of_its_own():
    args = GPT2 | {"tie_word_embeddings": False}
    model, _ = make("gpt2", TEXT, TaskName.LANGUAGE_MODELING, args=args, lora={"targets": ["lm_head"]})
    assert [name for name in trained_state(model) if "lora_" in name] == [
        f"network.lm_head.lora_{part}" for part in ("down", "up")
    ]


@pytest.mark.parametrize(
    ("kind", "args", "task"), [("bert", SMALL, "classification"), ("gpt2", GPT2, "language-modeling")]
)
def test_recomputed_activations_give_the_same_gradients(kind, args, task):
    facts = TEXT if task == "language-modeling" else REVIEWS
    plain, model = (make(kind, facts, TaskName(task), args=args)[0].train() for _ in range(2))
    enable_gradient_checkpointing(model)
    assert len(blocks_of(model)) == 2
    tokens, _ = batch(facts)
    for candidate in (plain, model):
        torch.manual_seed(3)
        candidate(tokens).square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_preloading_an_unknown_type_is_no_error_yet():
    preload(spec_of({"name": "hf:bret"}).model)
    preload(spec_of({"name": "hf:bert"}).model)
    preload(spec_of({"name": "timm:resnet18"}).model)
